//! The driver's seat from the inside: the engine, its links, and one step of driving them.

use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant};

use allhands_engine::flat::{FlatCall, Ticket};
use allhands_engine::{
    Engine, GroupKey, GroupSpec, LoanBase, OpKey, PointSubmission, Refusal, Refused, Space,
    Submission,
};
use allhands_record::CallMode;
use allhands_transport::{Closed, Links, Port, Slices};
use allhands_wire::{Cause, ControlFrame, Header, Message, Peer};

use crate::board::SharedBoard;
use crate::cell::{Cell, Joined, Outcome, Reply};
use crate::error::Who;
use crate::recipe::Recipe;
use crate::record::{Raw, Records};

/// What other threads want from whoever drives.
#[derive(Debug)]
pub(crate) enum Call {
    AddGroup(GroupSpec, Arc<Who>, Arc<Joined>),
    Begin(GroupKey, Box<Begin>, CallMode, Arc<Cell>),
    /// What is recorded of a group.
    Record(GroupKey, Arc<Reply<Raw>>),
    Abort(GroupKey, Cause, String),
    /// A message came on a control connection.
    Control(Peer, Header, Box<Message>),
    /// A control connection ended.
    ControlClosed(Peer, Closed),
    /// A control frame does not decode.
    Garbled(Peer, String),
    /// A peer has been silent for too long.
    Silent(Peer, String),
    /// A sign of life is due.
    Ping {
        stamp_us: u64,
    },
}

/// An operation to begin.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is moved once; a box would be memory for each call"
)]
pub(crate) enum Begin {
    Collective(Submission),
    Send(PointSubmission),
    Recv(PointSubmission),
}

/// How the ranks of a group reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// By messages.
    Links,
    /// By messages, and by memory that all of them share.
    Board,
}

/// What the service thread does outside the driver's seat, because it is foreign code.
#[derive(Debug, Default)]
pub(crate) struct Foreign {
    /// Futures to wake.
    pub(crate) wakers: Vec<Waker>,
    /// Outcomes to drop.
    pub(crate) orphans: Vec<Cell>,
    /// Groups that have failed, whose records are to be written.
    pub(crate) failed: Vec<Arc<Who>>,
}

pub(crate) struct Core {
    pub(crate) engine: Engine,
    pub(crate) links: Box<dyn Links>,
    /// Memory that all ranks share, if they do.
    pub(crate) board: Option<SharedBoard>,
    /// The group whose operations run there.
    shared: Option<GroupKey>,
    /// That group has failed, and its members know that what was lent may change.
    withdrawn: bool,
    /// What the last call there came down to.
    pub(crate) recipe: Option<(GroupKey, Arc<Recipe>)>,
    /// What the groups did last.
    pub(crate) records: Records,
    cells: Vec<Option<Arc<Cell>>>,
    awaited: Vec<Peer>,
    /// Callers that have got an answer since the last delivery, refusals included.
    answered: usize,
    /// Futures whose operations have ended.
    wakers: Vec<Waker>,
    /// Outcomes that nobody will take. Dropping their tensors may run foreign code, so not in the seat.
    orphans: Vec<Cell>,
    /// Groups that have failed, whose records are to be written.
    failed: Vec<Arc<Who>>,
}

/// Lets a link reach the engine.
struct EnginePort<'a>(&'a mut Engine);

impl Port for EnginePort<'_> {
    fn outgoing<'a>(&'a mut self, peer: Peer, slices: &mut Slices<'a>) {
        self.0.outgoing(peer, slices);
    }

    fn sent(&mut self, peer: Peer, bytes: usize) {
        self.0.sent(peer, bytes);
    }

    fn window(&mut self, peer: Peer) -> &mut [u8] {
        self.0.window(peer)
    }

    fn filled(&mut self, peer: Peer, bytes: usize) {
        self.0.filled(peer, bytes);
    }

    fn handle(&mut self, peer: Peer, bytes: &[u8]) {
        self.0.handle(peer, bytes);
    }

    fn closed(&mut self, peer: Peer, cause: Closed) {
        self.0.handle_closed(peer, &cause.to_string());
    }
}

/// Operations in flight above which the driver asks for readiness instead of trying each peer.
const DIRECT_PENDING_MAX: usize = 4;

/// Reads of a peer whose control connection has ended; what a socket can hold is less.
const LAST_VISITS_MAX: u32 = 4096;

impl Core {
    pub(crate) fn new(
        engine: Engine,
        links: Box<dyn Links>,
        board: Option<SharedBoard>,
        record_entries: usize,
    ) -> Self {
        Self {
            engine,
            links,
            board,
            records: Records::new(record_entries),
            shared: None,
            withdrawn: false,
            recipe: None,
            cells: Vec::new(),
            awaited: Vec::new(),
            answered: 0,
            wakers: Vec::new(),
            orphans: Vec::new(),
            failed: Vec::new(),
        }
    }

    /// Takes over what another thread asked for.
    pub(crate) fn apply(&mut self, call: Call) {
        match call {
            Call::AddGroup(spec, who, joined) => joined.put(self.add_group(spec, who)),
            Call::Begin(group, begin, mode, cell) => self.begin(group, *begin, mode, cell),
            Call::Record(group, reply) => reply.put(self.records.take(group, &self.engine)),
            Call::Abort(group, cause, why) => self.engine.abort(group, cause, &why),
            Call::Control(peer, header, message) => {
                self.engine.handle_control(peer, &header, &message);
            }
            Call::ControlClosed(peer, cause) => {
                // What came before the end counts: a goodbye may be behind a lot of it.
                let mut visits = 0;
                while visits < LAST_VISITS_MAX && !self.engine.has_left(peer) {
                    let got = self.links.receive(peer, &mut EnginePort(&mut self.engine));
                    if got == 0 {
                        break;
                    }
                    visits += 1;
                }
                self.engine.handle_control_closed(peer, &cause.to_string());
            }
            Call::Garbled(peer, why) => self.engine.handle_garbled(peer, &why),
            Call::Silent(peer, why) => self.engine.handle_silence(peer, &why),
            Call::Ping { stamp_us } => self.engine.ping_all(stamp_us),
        }
    }

    /// Begins an operation, whose outcome goes to `cell`.
    pub(crate) fn begin(&mut self, group: GroupKey, begin: Begin, mode: CallMode, cell: Arc<Cell>) {
        // An operation that has ended has given its index back: the next one would take its cell.
        self.answer();
        let call = self.records.call(group, &begin, mode, &self.engine);
        let taken = match begin {
            Begin::Collective(mut submission) => {
                let on_board = self.shared == Some(group) && submission.runs_on_board();
                match &self.board {
                    Some(board) if on_board => {
                        submission.loan = self.loan(
                            submission.input.piece().unwrap_or(&[]),
                            submission.data.piece().unwrap_or(&[]),
                        );
                        self.engine.submit_on_board(group, submission, board)
                    }
                    _ => self.engine.submit(group, submission),
                }
            }
            Begin::Send(submission) => self.engine.submit_send(group, submission),
            Begin::Recv(submission) => self.engine.submit_recv(group, submission),
        };
        if let Ok(key) = &taken {
            cell.begin(self.records.begun(*key, &call, &self.engine));
        }
        self.register(taken, cell);
    }

    /// The first group of all ranks gets the board.
    fn add_group(&mut self, spec: GroupSpec, who: Arc<Who>) -> Result<(GroupKey, Medium), Refusal> {
        let all = (0..self.links.world()).map(Peer).eq(spec.members.iter().copied());
        let key = self.engine.add_group(spec)?;
        self.records.add(who, key);
        if !all || self.board.is_none() || self.shared.is_some() {
            return Ok((key, Medium::Links));
        }
        self.engine.share(key);
        self.shared = Some(key);
        Ok((key, Medium::Board))
    }

    /// Where the buffers of an operation on the board lie in memory that peers read, if they do.
    #[inline]
    pub(crate) fn loan(&self, input: &[u8], data: &[u8]) -> Option<LoanBase> {
        let board = self.board.as_ref()?;
        let (input, data) = (board.place(input), board.place(data));
        let lies_there = input.is_some() || data.is_some();
        lies_there.then_some(LoanBase { segment: 0, generation: 0, data, input })
    }

    /// Enters an operation that its caller runs and that has to wait.
    pub(crate) fn enlist(
        &mut self,
        group: GroupKey,
        call: &FlatCall,
        ticket: &Ticket,
        submitted: Instant,
        deadline: Option<Instant>,
        cell: Arc<Cell>,
    ) -> OpKey {
        // An operation that has ended has given its index back: this one would take its cell.
        self.answer();
        let key = self.engine.enlist(group, call, ticket, submitted, deadline);
        let sequence = ticket.sequence();
        self.records.enlisted(group, key, call, sequence, submitted, deadline);
        cell.begin(sequence);
        self.register(Ok(key), cell);
        key
    }

    /// Runs what waits for the board. Returns whether anything was done.
    pub(crate) fn poll_board(&mut self) -> bool {
        match (&mut self.board, self.shared) {
            (Some(board), Some(group)) => self.engine.poll_board(group, board),
            _ => false,
        }
    }

    /// In an idle moment: whether a member calls something else, in shared memory.
    pub(crate) fn watch_board(&mut self) {
        if let (Some(board), Some(group)) = (&self.board, self.shared) {
            self.engine.watch_board(group, board);
        }
    }

    fn register(&mut self, taken: Result<OpKey, Box<Refused>>, cell: Arc<Cell>) {
        match taken {
            Ok(key) => {
                if self.cells.len() <= key.index() {
                    self.cells.resize(key.index() + 1, None);
                }
                self.cells[key.index()] = Some(cell);
            }
            Err(refused) => {
                self.put(cell, Outcome::Refused(refused));
            }
        }
    }

    /// Hands finished operations to those who asked. Returns how many callers have got an answer since the
    /// last time, refusals included.
    pub(crate) fn deliver(&mut self) -> usize {
        self.answer();
        std::mem::take(&mut self.answered)
    }

    fn answer(&mut self) {
        if self.shared.is_some_and(|group| self.engine.has_failed(group)) {
            // Before anybody gets back what was lent.
            self.withdraw();
        }
        self.records.take_failed(&self.engine, &mut self.failed);
        let mut now = None;
        while let Some(finished) = self.engine.poll_finished() {
            let took = self.records.ended(&finished, *now.get_or_insert_with(Instant::now));
            if let Some(cell) = self.cells.get_mut(finished.key.index()).and_then(Option::take) {
                // A message that was here already has ended before its number was asked for.
                cell.begin(finished.seq);
                self.put(cell, Outcome::Finished(finished, took));
            }
        }
    }

    /// Says, once, that what was lent in shared memory may change from now on: its group fails.
    pub(crate) fn withdraw(&mut self) {
        if let Some(board) = &mut self.board
            && !std::mem::replace(&mut self.withdrawn, true)
        {
            board.withdraw();
        }
    }

    /// Answers those whose operations went with a driver that panicked. Their tensors did, too.
    pub(crate) fn answer_lost(&mut self) {
        for key in self.engine.forget_lost() {
            if let Some(cell) = self.cells.get_mut(key.index()).and_then(Option::take) {
                let (reason, input, data) = (Refusal::Panicked, Space::empty(), Space::empty());
                self.put(cell, Outcome::Refused(Box::new(Refused { reason, input, data })));
            }
        }
    }

    fn put(&mut self, cell: Arc<Cell>, outcome: Outcome) {
        self.wakers.extend(cell.put(outcome));
        self.orphans.extend(Arc::into_inner(cell));
        self.answered += 1;
    }

    /// Whether there is something for [`Core::take_foreign`].
    pub(crate) fn has_foreign(&self) -> bool {
        !self.wakers.is_empty() || !self.orphans.is_empty() || !self.failed.is_empty()
    }

    /// Moves what may run foreign code, and so waits until nobody is in the seat, to `foreign`.
    pub(crate) fn take_foreign(&mut self, foreign: &mut Foreign) {
        foreign.wakers.append(&mut self.wakers);
        foreign.orphans.append(&mut self.orphans);
        foreign.failed.append(&mut self.failed);
    }

    /// Writes what has become ready to be sent.
    pub(crate) fn flush(&mut self) {
        while let Some(peer) = self.engine.poll_dirty() {
            self.links.flush(peer, &mut EnginePort(&mut self.engine));
        }
    }

    /// Tries the peers whose bytes are awaited, without asking for readiness first.
    pub(crate) fn receive(&mut self) -> usize {
        if self.engine.pending() > DIRECT_PENDING_MAX {
            return self.poll(Some(Duration::ZERO));
        }
        let mut awaited = std::mem::take(&mut self.awaited);
        self.engine.awaited_peers(&mut awaited);
        let mut got = 0;
        for &peer in &awaited {
            got += self.links.receive(peer, &mut EnginePort(&mut self.engine));
        }
        self.awaited = awaited;
        got
    }

    /// Tries one peer.
    pub(crate) fn receive_from(&mut self, peer: Peer) -> usize {
        self.links.receive(peer, &mut EnginePort(&mut self.engine))
    }

    /// Serves whichever peers are ready, sleeping up to `timeout` for one.
    pub(crate) fn poll(&mut self, timeout: Option<Duration>) -> usize {
        self.links.poll(timeout, &mut EnginePort(&mut self.engine))
    }

    /// Lets the engine see the time.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.engine.handle_time(now);
    }

    pub(crate) fn poll_control(&mut self) -> Option<(Peer, ControlFrame)> {
        let (peer, out) = self.engine.poll_control()?;
        Some((peer, out.message.encode(out.address)))
    }

    /// Says goodbye to every peer, behind what was sent.
    pub(crate) fn leave(&mut self) {
        self.engine.leave();
        self.flush();
    }

    /// Delivers what was sent and closes the links.
    pub(crate) fn shutdown(&mut self, deadline: Instant) {
        // A peer that is gone already has nothing to be told.
        let _ = self.links.shutdown(deadline, &mut EnginePort(&mut self.engine));
    }
}

#[cfg(test)]
mod tests {
    use allhands_engine::{Config, Prepared, Storage};
    use allhands_plan::{Algorithm, Plan, Rank, Shape};
    use allhands_transport::local;
    use allhands_wire::Descriptor;

    use super::*;

    fn broadcast(bytes: Vec<u8>) -> Begin {
        let shape = Shape::Broadcast { len: bytes.len() as u64, root: Rank(0) };
        let plan = Plan::build(&shape, Algorithm::Direct, 1, Rank(0)).unwrap();
        let descriptor = Descriptor::default();
        Begin::Collective(Submission {
            channel: 0,
            plan: Arc::new(Prepared::new(plan)),
            kernel: None,
            element_size: 1,
            descriptor,
            fingerprint: descriptor.fingerprint(),
            input: Space::empty(),
            data: Space::single(Storage::Bytes(bytes)),
            loan: None,
            submitted: Instant::now(),
            deadline: None,
        })
    }

    #[test]
    fn calls_taken_together_keep_their_own_outcomes_although_the_first_ends_at_once() {
        let (links, _control) = local::fabric(1).pop().unwrap();
        let engine = Engine::new(Peer(0), 1, Config::DEFAULT, Instant::now());
        let mut core = Core::new(engine, Box::new(links), None, 0);
        let spec = GroupSpec { id: 1, epoch: 0, members: vec![Peer(0)] };
        let group = core.engine.add_group(spec).unwrap();
        let cells: Vec<Arc<Cell>> = (0..3).map(|_| Arc::default()).collect();
        for (mark, cell) in cells.iter().enumerate() {
            core.begin(group, broadcast(vec![mark as u8]), CallMode::Async, cell.clone());
        }
        assert_eq!(core.deliver(), 3);
        for (mark, cell) in cells.iter().enumerate() {
            let Some(Outcome::Finished(finished, _)) = cell.take() else {
                panic!("call {mark} has no outcome");
            };
            assert!(finished.result.is_ok());
            assert_eq!((finished.seq, finished.data.run(0, 9)), (mark as u64, &[mark as u8][..]));
        }
    }
    #[test]
    fn outcomes_that_nobody_takes_leave_the_seat_alive() {
        let (links, _control) = local::fabric(1).pop().unwrap();
        let engine = Engine::new(Peer(0), 1, Config::DEFAULT, Instant::now());
        let mut core = Core::new(engine, Box::new(links), None, 0);
        let spec = GroupSpec { id: 1, epoch: 0, members: vec![Peer(0)] };
        let group = core.engine.add_group(spec).unwrap();
        let kept = Arc::<Cell>::default();
        core.begin(group, broadcast(vec![1]), CallMode::Async, kept.clone());
        core.begin(group, broadcast(vec![2]), CallMode::Async, Arc::default());
        assert_eq!(core.deliver(), 2);
        let mut foreign = Foreign::default();
        core.take_foreign(&mut foreign);
        assert!(kept.is_done() && !core.has_foreign());
        let [orphan] = foreign.orphans.as_slice() else { panic!("{foreign:?}") };
        assert!(
            matches!(orphan.take(), Some(Outcome::Finished(end, _)) if end.data.run(0, 9) == [2])
        );
    }
}
