use super::hello::{
    GREETING_LEN, HELLO_LEN, Hello, Identity, Inbox, Outbox, PROVEN_HELLO_LEN, Purpose, Stage,
    VERDICT_BODY_LEN, VERDICT_LEN, array_at, check_greeting, check_prefix,
};
use super::key::{JobKey, Nonce, Role};
use super::{HandshakeError, HandshakeState, Reject};
use crate::peer::Peer;

/// The dialling side of a handshake. See [`Responder`](super::Responder) for an example.
///
/// It waits for the responder's greeting, so it has nothing to write at first.
#[derive(Clone, Debug)]
pub struct Initiator {
    key: JobKey,
    hello: Hello,
    greeting: Inbox<GREETING_LEN>,
    verdict: Inbox<VERDICT_LEN>,
    out: Outbox<PROVEN_HELLO_LEN>,
    state: HandshakeState,
}

impl Initiator {
    /// Starts a handshake with `peer`, for `purpose`, with a `nonce` that was never used before.
    pub fn new(key: &JobKey, who: &Identity, peer: Peer, purpose: Purpose, nonce: Nonce) -> Self {
        Self {
            key: key.clone(),
            hello: Hello::new(who, peer, purpose, nonce),
            greeting: Inbox::new(),
            verdict: Inbox::new(),
            out: Outbox::new(),
            state: HandshakeState::Working,
        }
    }

    /// Takes bytes that came, split anywhere, and returns how many it took.
    ///
    /// What is left belongs to the frames that follow the handshake.
    pub fn handle_bytes(&mut self, bytes: &[u8]) -> usize {
        let mut taken = 0;
        if self.greeting.whole().is_none() && self.working() {
            taken += self.greeting.fill(bytes);
            if let Err(error) = self.answer_greeting() {
                self.state = HandshakeState::Failed(error);
            }
        }
        if self.greeting.whole().is_some() && self.verdict.whole().is_none() && self.working() {
            taken += self.verdict.fill(&bytes[taken..]);
            match self.judge_verdict() {
                Ok(None) => {}
                Ok(Some(hello)) => self.state = HandshakeState::Granted(hello),
                Err(error) => self.state = HandshakeState::Failed(error),
            }
        }
        taken
    }

    /// The bytes to write now; empty if there are none.
    pub fn poll_output(&self) -> &[u8] {
        self.out.unsent()
    }

    /// The first `bytes` of [`poll_output`](Self::poll_output) were written.
    pub fn handle_sent(&mut self, bytes: usize) {
        self.out.sent(bytes);
    }

    /// How far it got.
    pub fn state(&self) -> HandshakeState {
        self.state
    }

    fn working(&self) -> bool {
        matches!(self.state, HandshakeState::Working)
    }

    fn answer_greeting(&mut self) -> Result<(), HandshakeError> {
        check_prefix(self.greeting.so_far(), Stage::Greeting)?;
        let Some(greeting) = self.greeting.whole() else { return Ok(()) };
        check_greeting(greeting)?;
        let hello = self.hello.encode(Stage::Hello);
        let proof = self.key.prove(Role::Initiator, &[greeting, &hello]);
        self.out.push(&hello);
        self.out.push(&proof);
        Ok(())
    }

    fn judge_verdict(&self) -> Result<Option<Hello>, HandshakeError> {
        check_prefix(self.verdict.so_far(), Stage::Verdict)?;
        let (Some(greeting), Some(verdict)) = (self.greeting.whole(), self.verdict.whole()) else {
            return Ok(None);
        };
        let (body, proof) = verdict.split_at(VERDICT_BODY_LEN);
        let reject = Reject::decode(&array_at(body, HELLO_LEN))
            .ok_or(HandshakeError::Malformed { field: "verdict" })?
            .map(Reject::seen_from_there);
        if let Some(reject) = reject
            && reject.needs_no_proof()
        {
            return Err(HandshakeError::Rejected(reject));
        }
        if !self.key.verify(Role::Responder, &[greeting, self.out.all(), body], proof) {
            return Err(HandshakeError::Unproven);
        }
        if let Some(reject) = reject {
            return Err(HandshakeError::Rejected(reject));
        }
        let found = Hello::decode(&array_at(body, 0))?;
        let expected = Hello {
            src: self.hello.dst,
            dst: self.hello.src,
            pid: found.pid,
            host: found.host,
            nonce: Nonce(array_at(greeting, 8)),
            ..self.hello
        };
        if found != expected {
            return Err(HandshakeError::WrongPeer { dialled: self.hello.dst, found: found.src });
        }
        Ok(Some(found))
    }
}
