use super::hello::{
    GREETING_LEN, HELLO_LEN, Hello, Identity, Inbox, Outbox, PROVEN_HELLO_LEN, Stage, VERDICT_LEN,
    array_at, check_prefix, encode_greeting, encode_verdict, job_of,
};
use super::key::{JobKey, Nonce, PROOF_LEN, Role};
use super::{HandshakeError, HandshakeState, Reject};

/// The listening side of a handshake.
///
/// It speaks first: its greeting is in [`poll_output`](Self::poll_output) from the start. The
/// rank's place is granted by the caller, and only once the initiator has proved the key.
///
/// ```
/// use allhands_wire::{
///     HandshakeState, HostHash, Identity, Initiator, JobHash, JobKey, Nonce, Peer, Purpose,
///     Responder,
/// };
///
/// let key = JobKey::new([7; 32]);
/// let listener = Identity {
///     job: JobHash::of("resnet"), epoch: 0, me: Peer(0), world: 2, lanes: 1,
///     pid: 100, host: HostHash::of(b"boot id"),
/// };
/// let dialler = Identity { me: Peer(1), pid: 200, ..listener };
/// // Nonces are random in earnest.
/// let mut responder = Responder::new(&key, &listener, Nonce([1; 16]));
/// let mut initiator = Initiator::new(&key, &dialler, Peer(0), Purpose::Control, Nonce([2; 16]));
///
/// // Greeting, answer, verdict: three messages.
/// let n = initiator.handle_bytes(responder.poll_output());
/// responder.handle_sent(n);
/// let n = responder.handle_bytes(initiator.poll_output());
/// initiator.handle_sent(n);
/// let decision = responder.decide().expect("the proof is good");
/// assert_eq!(decision.hello().src, Peer(1));
/// decision.grant();
/// let n = initiator.handle_bytes(responder.poll_output());
/// responder.handle_sent(n);
///
/// assert!(matches!(initiator.state(), HandshakeState::Granted(hello) if hello.src == Peer(0)));
/// assert!(matches!(responder.state(), HandshakeState::Granted(hello) if hello.pid == 200));
/// ```
#[derive(Clone, Debug)]
pub struct Responder {
    key: JobKey,
    who: Identity,
    nonce: Nonce,
    hello: Inbox<PROVEN_HELLO_LEN>,
    out: Outbox<{ GREETING_LEN + VERDICT_LEN }>,
    outcome: HandshakeState,
}

impl Responder {
    /// Starts a handshake with whoever connected, with a `nonce` that was never used before.
    pub fn new(key: &JobKey, who: &Identity, nonce: Nonce) -> Self {
        let mut out = Outbox::new();
        out.push(&encode_greeting(nonce));
        Self {
            key: key.clone(),
            who: *who,
            nonce,
            hello: Inbox::new(),
            out,
            outcome: HandshakeState::Working,
        }
    }

    /// Takes bytes that came, split anywhere, and returns how many it took.
    ///
    /// What is left belongs to the frames that follow the handshake; before the initiator is
    /// granted its place there are none from an honest one.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        if !matches!(self.outcome, HandshakeState::Working) {
            return 0;
        }
        let taken = self.hello.fill(bytes);
        match self.judge() {
            Ok(None) => {}
            Ok(Some(hello)) => self.outcome = HandshakeState::Deciding(hello),
            Err(error) => self.outcome = HandshakeState::Failed(error),
        }
        taken
    }

    /// The bytes to write now; empty if there are none. After a failure too: then close.
    pub fn poll_output(&self) -> &[u8] {
        self.out.unsent()
    }

    /// The first `bytes` of [`poll_output`](Self::poll_output) were written.
    pub fn handle_sent(&mut self, bytes: usize) {
        self.out.sent(bytes);
    }

    /// How far it got. [`HandshakeState::Granted`] shows only when the verdict is written, so that
    /// a connection is never handed on with a piece of the handshake in this buffer.
    pub fn state(&self) -> HandshakeState {
        match self.outcome {
            HandshakeState::Granted(_) if !self.out.unsent().is_empty() => HandshakeState::Working,
            outcome => outcome,
        }
    }

    /// The decision that is due, once the initiator has proved the key and fits this mesh.
    pub fn decide(&mut self) -> Option<Decision<'_>> {
        match self.outcome {
            HandshakeState::Deciding(hello) => Some(Decision { responder: self, hello }),
            _ => None,
        }
    }

    fn judge(&mut self) -> Result<Option<Hello>, HandshakeError> {
        match check_prefix(self.hello.so_far(), Stage::Hello) {
            Ok(()) => {}
            // Only who speaks this protocol is told anything.
            Err(HandshakeError::Version { mine, theirs }) => {
                return Err(self.turn_away(Reject::Version { mine, theirs }));
            }
            Err(HandshakeError::Suite { mine, theirs }) => {
                return Err(self.turn_away(Reject::Suite { mine, theirs }));
            }
            Err(error) => return Err(error),
        }
        let Some(message) = self.hello.whole() else { return Ok(None) };
        let bytes: [u8; HELLO_LEN] = array_at(message, 0);
        if job_of(&bytes) != self.who.job {
            return Err(self.turn_away(Reject::WrongJob));
        }
        let greeting = encode_greeting(self.nonce);
        if !self.key.verify(Role::Initiator, &[&greeting, &bytes], &message[HELLO_LEN..]) {
            return Err(self.turn_away(Reject::AuthFailed));
        }
        // From here on the initiator is known to hold the key and may be told everything.
        let hello = Hello::decode(&bytes)?;
        match self.mismatch(&hello) {
            None => Ok(Some(hello)),
            Some(reject) => {
                self.answer(&hello, Some(reject));
                Err(HandshakeError::Refused(reject))
            }
        }
    }

    fn mismatch(&self, theirs: &Hello) -> Option<Reject> {
        let mine = &self.who;
        // The epoch comes first: another generation has every right to another size.
        if theirs.epoch != mine.epoch {
            return Some(Reject::WrongEpoch { mine: mine.epoch, theirs: theirs.epoch });
        }
        if theirs.world != mine.world {
            return Some(Reject::WorldSizeMismatch { mine: mine.world, theirs: theirs.world });
        }
        if theirs.lanes != mine.lanes {
            return Some(Reject::LaneMismatch { mine: mine.lanes, theirs: theirs.lanes });
        }
        let lane_exists = match theirs.purpose {
            super::Purpose::Control => true,
            super::Purpose::Data { lane } => lane < mine.lanes,
        };
        if theirs.dst != mine.me
            || theirs.src == mine.me
            || theirs.src.0 >= mine.world
            || !lane_exists
        {
            return Some(Reject::NotMember { src: theirs.src.0, dst: theirs.dst.0 });
        }
        None
    }

    /// Tells a reason that needs no proof, and nothing else.
    fn turn_away(&mut self, reject: Reject) -> HandshakeError {
        self.out.push(&encode_verdict(None, Some(reject)));
        self.out.push(&[0; PROOF_LEN]);
        HandshakeError::Refused(reject)
    }

    /// Tells the verdict with a proof over everything that was said.
    fn answer(&mut self, theirs: &Hello, reject: Option<Reject>) {
        let hello = Hello::new(&self.who, theirs.src, theirs.purpose, self.nonce);
        let body = encode_verdict(Some(&hello), reject);
        let greeting = encode_greeting(self.nonce);
        let proof = self.key.prove(Role::Responder, &[&greeting, self.hello.so_far(), &body]);
        self.out.push(&body);
        self.out.push(&proof);
    }
}

/// An initiator that proved the key waits for its place.
#[derive(Debug)]
#[must_use = "the initiator waits for the verdict"]
pub struct Decision<'a> {
    responder: &'a mut Responder,
    hello: Hello,
}

impl Decision<'_> {
    /// Who asks, and for what.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Gives the initiator its place.
    pub fn grant(self) {
        self.responder.answer(&self.hello, None);
        self.responder.outcome = HandshakeState::Granted(self.hello);
    }

    /// Turns the initiator away: [`Reject::DuplicateRank`], [`Reject::Busy`], …
    pub fn refuse(self, reject: Reject) {
        self.responder.answer(&self.hello, Some(reject));
        self.responder.outcome = HandshakeState::Failed(HandshakeError::Refused(reject));
    }
}
