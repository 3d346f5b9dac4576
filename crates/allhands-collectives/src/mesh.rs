//! One process's place in the mesh: whoever waits drives, and a service thread does the rest.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use allhands_engine::{Config, Engine, GroupKey, GroupSpec, Refusal};
use allhands_record::CallMode;
use allhands_transport::{Control, ControlEvent, Links, ProgressRequests, Wake};
use allhands_wire::{Cause, ControlFrame, Message, Peer};

use crate::board::{Board, SharedBoard};
use crate::cell::{Cell, Cells, Reply};
use crate::core::{Begin, Call, Core, Foreign, Medium};
use crate::error::Who;
use crate::primitive::{Mutex, lock};
use crate::processors::Cores;
use crate::record::{Raw, RecordConfig};
use crate::seat::{Seat, Turn};

/// How a driver waits, and how peers are watched.
#[derive(Clone, Debug)]
pub struct MeshConfig {
    /// Sizes and bounds of the engine.
    pub engine: Config,
    /// How the ranks of this host share its processors.
    pub cores: Cores,
    /// How long a driver polls before it lets other threads run between polls. Only where every rank
    /// of the host has a core.
    pub spin: Duration,
    /// How long a driver polls, yielding in between, before it sleeps until something comes.
    pub yielding: Duration,
    /// How often a sign of life is sent.
    pub heartbeat: Duration,
    /// How long a peer may be silent before it counts as lost.
    pub peer_timeout: Duration,
    /// How long dropping the mesh may take to deliver what was sent and say goodbye.
    pub linger: Duration,
    /// What is recorded of each group.
    pub record: RecordConfig,
}

impl MeshConfig {
    /// Defaults for ranks that share the processors of this host in this way.
    #[must_use]
    pub fn new(cores: Cores) -> Self {
        Self {
            engine: Config::DEFAULT,
            cores,
            spin: Duration::from_micros(20),
            yielding: Duration::from_millis(2),
            heartbeat: Duration::from_millis(500),
            peer_timeout: Duration::from_secs(5),
            linger: Duration::from_secs(5),
            record: RecordConfig::default(),
        }
    }
}

/// Shortest time between two signs of life: below, they would keep the service thread from everything else.
const HEARTBEAT_MIN: Duration = Duration::from_millis(1);

/// Longest wait that a moment is computed for; beyond, a configured time means "never".
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

/// Calls that may wait for the driver; callers beyond wait for room.
const INBOX_MAX: usize = 1 << 16;

/// Longest sleep of a driver: bounds how late it notices what only a clock can tell it.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// Polls between two looks at the clock while driving.
const POLLS_PER_LOOK: u32 = 32;

/// Steps of a busy driver between two looks at the clock.
const STEPS_PER_TICK: u32 = 256;

/// Panics that the service thread outlives; after them it ends, and its peers see its connections end.
const PANICS_MAX: u32 = 3;

/// How long the service thread sleeps on data links before it looks at the control connections again.
const SERVICE_SLEEP: Duration = Duration::from_millis(2);

pub(crate) struct Shared {
    seat: Seat,
    core: Mutex<Core>,
    inbox: Mutex<VecDeque<Call>>,
    inbox_filled: AtomicBool,
    control_out: Mutex<VecDeque<(Peer, ControlFrame)>>,
    /// There is something in `control_out`.
    control_waits: AtomicBool,
    foreign: Mutex<Foreign>,
    pub(crate) cells: Cells,
    links_waker: Arc<dyn Wake>,
    control_waker: Arc<dyn Wake>,
    /// Where peers say that they wait for this rank to read.
    progress_requests: Option<Arc<dyn ProgressRequests>>,
    /// The driver sleeps, or is about to: a new call must wake it.
    asleep: AtomicBool,
    /// Operations in flight and whatever else keeps the engine restless, as of the last step.
    pending: AtomicUsize,
    closing: AtomicBool,
    /// There is a group, so what peers send belongs to something.
    opened: AtomicBool,
    config: MeshConfig,
    pub(crate) crowded: bool,
}

/// A process's connections to all its peers, shared by every group made of them.
///
/// Dropping the last handle delivers what was sent, says goodbye, and stops the service thread.
pub struct Mesh {
    shared: Arc<Shared>,
    service: Option<JoinHandle<()>>,
    me: Peer,
    world: u32,
    /// The process that has the service thread: a fork copies the handle alone.
    process: u32,
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("me", &self.me).field("world", &self.world).finish()
    }
}

impl Mesh {
    /// A mesh over ready links, with its service thread. Nothing is read before there is a group: what a
    /// quick peer sends would belong to nothing.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn start(
        links: Box<dyn Links>,
        control: Box<dyn Control>,
        config: MeshConfig,
    ) -> std::io::Result<Self> {
        Self::start_any(links, control, None, config)
    }

    /// A mesh of ranks that all share a host, with the boards through which its first group of all ranks runs
    /// collectives. All ranks must do so, or none.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub fn start_shared(
        links: Box<dyn Links>,
        control: Box<dyn Control>,
        board: Board,
        config: MeshConfig,
    ) -> std::io::Result<Self> {
        Self::start_any(links, control, Some(SharedBoard(board)), config)
    }

    fn start_any(
        links: Box<dyn Links>,
        control: Box<dyn Control>,
        board: Option<SharedBoard>,
        config: MeshConfig,
    ) -> std::io::Result<Self> {
        let (me, world) = (links.peer(), links.world());
        let engine = Engine::new(me, world, config.engine, Instant::now());
        let shared = Arc::new(Shared {
            seat: Seat::new(),
            links_waker: links.waker(),
            control_waker: control.waker(),
            progress_requests: links.progress_requests(),
            core: Mutex::new(Core::new(engine, links, board, config.record.entries)),
            inbox: Mutex::new(VecDeque::new()),
            inbox_filled: AtomicBool::new(false),
            control_out: Mutex::new(VecDeque::new()),
            control_waits: AtomicBool::new(false),
            foreign: Mutex::default(),
            cells: Cells::default(),
            asleep: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            closing: AtomicBool::new(false),
            opened: AtomicBool::new(false),
            crowded: config.cores == Cores::Shared,
            config,
        });
        let service = Service { shared: shared.clone(), control, world, me };
        let service = std::thread::Builder::new()
            .name(format!("allhands-{}", me.0))
            .spawn(move || service.run())?;
        Ok(Self { shared, service: Some(service), me, world, process: std::process::id() })
    }

    /// This process's position.
    #[must_use]
    pub fn me(&self) -> Peer {
        self.me
    }

    /// Processes in the mesh.
    #[must_use]
    pub fn world(&self) -> u32 {
        self.world
    }

    pub(crate) fn add_group(
        &self,
        spec: GroupSpec,
        who: Arc<Who>,
    ) -> Result<(GroupKey, Medium), Refusal> {
        let added = self.shared.ask(|joined| Call::AddGroup(spec, who, joined));
        if added.is_ok() && !self.shared.opened.swap(true, Ordering::AcqRel) {
            self.unpark();
        }
        added
    }

    fn unpark(&self) {
        if let Some(service) = &self.service {
            service.thread().unpark();
        }
    }

    pub(crate) fn record_config(&self) -> &RecordConfig {
        &self.shared.config.record
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A forked copy has no thread that would end, and the peers are its parent's.
            std::mem::forget(self.service.take());
            return;
        }
        self.shared.closing.store(true, Ordering::Release);
        self.unpark();
        self.shared.control_waker.wake();
        self.shared.links_waker.wake();
        if let Some(service) = self.service.take() {
            if service.thread().id() == std::thread::current().id() {
                // A future that was woken held the last handle: the service thread ends by itself.
                return;
            }
            // If it panicked too often, there is nothing left to stop.
            let _ = service.join();
        }
    }
}

/// The driver's seat, left on drop: also when a driver panics, nobody waits for it in vain. The lock is poisoned then,
/// and the next one in the seat fails all groups.
pub(crate) struct Sitting<'a> {
    shared: &'a Shared,
    core: Option<MutexGuard<'a, Core>>,
    /// The thread was unwinding when it sat down, so what it does here has not panicked.
    unwinding: bool,
}

impl std::ops::Deref for Sitting<'_> {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        self.core.as_ref().expect("held until drop")
    }
}

impl std::ops::DerefMut for Sitting<'_> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Core {
        self.core.as_mut().expect("held until drop")
    }
}

impl Drop for Sitting<'_> {
    #[inline]
    fn drop(&mut self) {
        if std::thread::panicking()
            && !self.unwinding
            && let Some(core) = &mut self.core
        {
            // A caller further up gets back what it has lent, before anybody hears of it.
            core.withdraw();
        }
        self.core = None;
        self.shared.leave();
    }
}

impl Shared {
    /// Takes the seat if it is free and nobody is parked who would rather drive.
    #[inline]
    pub(crate) fn try_take_seat(&self) -> bool {
        self.seat.try_take_unwanted()
    }

    /// Whether other threads want something of whoever drives.
    #[inline]
    pub(crate) fn has_calls(&self) -> bool {
        self.inbox_filled.load(Ordering::Relaxed)
    }

    /// Sits down in the seat that was just taken.
    #[inline]
    pub(crate) fn sit(&self) -> Sitting<'_> {
        let unwinding = std::thread::panicking();
        match self.core.lock() {
            Ok(core) => Sitting { shared: self, core: Some(core), unwinding },
            Err(panicked) => self.recover(panicked.into_inner()),
        }
    }

    /// Whoever sat here last has panicked: what was in flight may be half done, so no group goes on.
    #[cold]
    fn recover<'a>(&'a self, core: MutexGuard<'a, Core>) -> Sitting<'a> {
        // From here on a panic leaves the seat again, and the next one finds the lock poisoned as this one did.
        let unwinding = std::thread::panicking();
        let mut sitting = Sitting { shared: self, core: Some(core), unwinding };
        self.core.clear_poison();
        sitting.engine.abort_all(Cause::DriverPanic, "a thread panicked in the driver's seat");
        sitting.answer_lost();
        sitting.flush();
        self.finish_step(&mut sitting);
        sitting
    }

    /// Runs `work` in the driver's seat.
    fn with_core<R>(&self, work: impl FnOnce(&mut Core) -> R) -> R {
        while self.seat.take_unless(|| false, None) != Turn::Drive {}
        work(&mut self.sit())
    }

    /// Asks whoever drives for something; takes the seat itself if it is free.
    pub(crate) fn post(&self, call: Call) {
        if self.seat.try_take() {
            let mut core = self.sit();
            self.drain(&mut core);
            core.apply(call);
            core.flush();
            self.finish_step(&mut core);
        } else {
            self.enqueue(call);
        }
    }

    /// What is recorded of a group.
    pub(crate) fn record(&self, group: GroupKey) -> Raw {
        self.ask(|reply| Call::Record(group, reply))
    }

    /// Asks whoever drives, and waits for the answer. Waiting for the seat instead would wait for an operation that may
    /// need this call to end.
    fn ask<T>(&self, call: impl FnOnce(Arc<Reply<T>>) -> Call) -> T {
        let reply = Arc::new(Reply::default());
        self.post(call(reply.clone()));
        loop {
            if let Some(answer) = reply.wait() {
                return answer;
            }
            // Whoever drove has left without a look at the call.
            if self.seat.try_take() {
                let mut core = self.sit();
                self.drain(&mut core);
                core.flush();
                self.finish_step(&mut core);
            }
        }
    }

    fn enqueue(&self, call: Call) {
        let mut call = Some(call);
        while call.is_some() {
            {
                let mut inbox = lock(&self.inbox);
                if inbox.len() < INBOX_MAX {
                    inbox.extend(call.take());
                }
            }
            self.inbox_filled.store(true, Ordering::SeqCst);
            if self.asleep.load(Ordering::SeqCst) {
                self.links_waker.wake();
            }
            // The driver may have left between the failed attempt and the push: then nobody would look.
            if self.seat.try_take() {
                let mut core = self.sit();
                self.drain(&mut core);
                core.flush();
                self.finish_step(&mut core);
            } else if call.is_some() {
                std::thread::yield_now();
            }
        }
    }

    /// Begins an operation and drives until its cell is done.
    pub(crate) fn run(&self, group: GroupKey, begin: Begin, cell: &Arc<Cell>) {
        if self.seat.try_take() {
            let mut core = self.sit();
            self.drain(&mut core);
            core.begin(group, begin, CallMode::Blocking, cell.clone());
            self.drive(&mut core, cell, None, &mut |_| false);
        } else {
            self.enqueue(Call::Begin(group, Box::new(begin), CallMode::Blocking, cell.clone()));
            self.wait(cell, None);
        }
    }

    /// Waits until `cell` is done or the time is over, driving if nobody else does.
    pub(crate) fn wait(&self, cell: &Cell, until: Option<Instant>) {
        if cell.is_done() {
            return;
        }
        // The service thread gives way to whoever waits.
        if self.asleep.load(Ordering::SeqCst) {
            self.links_waker.wake();
        }
        let over = || cell.is_done() || until.is_some_and(|at| Instant::now() >= at);
        match self.seat.take_unless(over, until) {
            // Who left the seat may have counted on this thread to take it.
            Turn::Done => self.hand_over(self.seat.is_deserted()),
            Turn::Drive => self.drive(&mut self.sit(), cell, until, &mut |_| false),
        }
    }

    /// Leaves the seat to a thread that waits, else to the service thread if there is work.
    #[inline]
    fn leave(&self) {
        let taken_over = self.seat.leave();
        self.hand_over(!taken_over);
    }

    /// Tells the service thread of work that nobody else will do.
    #[inline]
    fn hand_over(&self, deserted: bool) {
        let work = || {
            self.pending.load(Ordering::SeqCst) > 0
                || self.inbox_filled.load(Ordering::SeqCst)
                || self.control_waits.load(Ordering::SeqCst)
                || self.core.is_poisoned()
        };
        if deserted && work() {
            self.control_waker.wake();
        }
    }

    /// Whether an operation in flight still has something for others.
    fn is_owing(&self, core: &mut Core) -> bool {
        self.drain(core);
        core.flush();
        self.finish_step(core);
        core.engine.is_owing()
    }

    fn drain(&self, core: &mut Core) -> bool {
        if !self.inbox_filled.swap(false, Ordering::SeqCst) {
            return false;
        }
        loop {
            let call = lock(&self.inbox).pop_front();
            match call {
                Some(call) => core.apply(call),
                None => return true,
            }
        }
    }

    /// Delivers what has ended and hands control frames to the service thread.
    pub(crate) fn finish_step(&self, core: &mut Core) {
        let delivered = core.deliver();
        let unattended = core.engine.pending() + usize::from(core.engine.is_restless());
        // Only who drives writes it; a store that changes nothing would cost a full barrier in each idle pass.
        if self.pending.load(Ordering::Relaxed) != unattended {
            self.pending.store(unattended, Ordering::SeqCst);
        }
        if delivered > 0 {
            self.seat.announce();
        }
        let mut told = false;
        if core.has_foreign() {
            core.take_foreign(&mut lock(&self.foreign));
            told = true;
        }
        while let Some(frame) = core.poll_control() {
            lock(&self.control_out).push_back(frame);
            self.control_waits.store(true, Ordering::SeqCst);
            told = true;
        }
        if told {
            self.control_waker.wake();
        }
    }

    /// Drives until `cell` is done or the time is over: sends what is ready, tries what is awaited, and waits ever more
    /// patiently while nothing moves.
    ///
    /// `inline` runs what the calling thread itself has on the board, and says whether anything was done.
    pub(crate) fn drive(
        &self,
        core: &mut Core,
        cell: &Cell,
        until: Option<Instant>,
        inline: &mut dyn FnMut(&mut Core) -> bool,
    ) {
        let mut idle: u32 = 0;
        let mut idle_since = None;
        let mut steps: u32 = 0;
        loop {
            steps = steps.wrapping_add(1);
            if steps.is_multiple_of(STEPS_PER_TICK) {
                // Traffic of one group must not hide the deadlines of another, nor this thread's own.
                let now = Instant::now();
                core.tick(now);
                if until.is_some_and(|until| now >= until) {
                    self.finish_step(core);
                    return;
                }
            }
            if self.inbox_filled.load(Ordering::Relaxed) {
                self.drain(core);
            }
            let on_board = inline(core) | core.poll_board();
            core.flush();
            self.finish_step(core);
            if cell.is_done() {
                return;
            }
            let mut moved = core.receive() + usize::from(on_board);
            if moved == 0
                && (core.engine.is_sending() || idle % POLLS_PER_LOOK == POLLS_PER_LOOK - 1)
            {
                moved = core.poll(Some(Duration::ZERO));
            }
            if moved > 0 {
                idle = 0;
                idle_since = None;
                continue;
            }
            idle += 1;
            if !idle.is_multiple_of(POLLS_PER_LOOK) {
                if self.crowded {
                    std::thread::yield_now();
                } else {
                    std::hint::spin_loop();
                }
                continue;
            }
            core.watch_board();
            let now = Instant::now();
            core.tick(now);
            if until.is_some_and(|until| now >= until) {
                self.finish_step(core);
                return;
            }
            let since = now - *idle_since.get_or_insert(now);
            if since < self.config.spin && !self.crowded {
                continue;
            }
            if since < self.config.yielding {
                std::thread::yield_now();
                continue;
            }
            let left = until.map_or(SLEEP_MAX, |until| until - now);
            self.sleep(core, now, SLEEP_MAX.min(left), inline);
        }
    }

    /// Sleeps until a link has something, a call comes, or the engine has something to do.
    fn sleep(
        &self,
        core: &mut Core,
        now: Instant,
        longest: Duration,
        inline: &mut dyn FnMut(&mut Core) -> bool,
    ) {
        self.finish_step(core);
        let until = core.engine.next_deadline().map(|at| at.saturating_duration_since(now));
        let timeout = until.map_or(longest, |until| until.min(longest));
        self.asleep.store(true, Ordering::SeqCst);
        // What was published before the links were armed has not woken anybody, nor has a call that came before
        // the flag was up.
        core.links.arm();
        let news = inline(core) | core.poll_board() || self.inbox_filled.load(Ordering::SeqCst);
        core.poll(Some(if news { Duration::ZERO } else { timeout }));
        self.asleep.store(false, Ordering::SeqCst);
        core.tick(Instant::now());
    }
}

/// What the service thread remembers from one turn to the next.
struct Watch {
    begun: Instant,
    heartbeat: Duration,
    next_ping: Instant,
    /// When each peer was heard of last.
    heard: Vec<Instant>,
    /// Peers that are known to be lost.
    gone: Vec<bool>,
    /// Until when the mesh stays open for others, once it is to be closed.
    patient_until: Option<Instant>,
}

impl Watch {
    fn new(world: u32, config: &MeshConfig) -> Self {
        let begun = Instant::now();
        let heartbeat = config.heartbeat.clamp(HEARTBEAT_MIN, FAR);
        Self {
            begun,
            heartbeat,
            next_ping: begun + heartbeat,
            heard: vec![begun; world as usize],
            gone: vec![false; world as usize],
            patient_until: None,
        }
    }
}

/// Owns the control connections and drives what nobody waits for.
struct Service {
    shared: Arc<Shared>,
    control: Box<dyn Control>,
    me: Peer,
    world: u32,
}

impl Service {
    fn run(mut self) {
        while !self.shared.opened.load(Ordering::Acquire)
            && !self.shared.closing.load(Ordering::Acquire)
        {
            // Adding the first group unparks, closing too.
            std::thread::park();
        }
        let mut watch = Watch::new(self.world, &self.shared.config);
        let mut panics = 0;
        loop {
            // A panic in the driver's seat fails the groups, and it is this thread that tells the peers.
            match catch_unwind(AssertUnwindSafe(|| self.turn(&mut watch))) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break,
                Err(_) if panics < PANICS_MAX => panics += 1,
                Err(_) => return,
            }
        }
        self.close();
    }

    /// Looks once after everything that nobody waits for. Breaks when the mesh is to be closed.
    fn turn(&mut self, watch: &mut Watch) -> ControlFlow<()> {
        let now = Instant::now();
        if self.shared.closing.load(Ordering::Acquire) {
            // What others count on goes on a while: a message whose receiver has not asked for it yet.
            let linger = self.shared.config.linger.min(FAR);
            let until = *watch.patient_until.get_or_insert(now + linger);
            if now >= until || !self.shared.with_core(|core| self.shared.is_owing(core)) {
                return ControlFlow::Break(());
            }
        }
        if now >= watch.next_ping {
            watch.next_ping = now + watch.heartbeat;
            let stamp_us = now.duration_since(watch.begun).as_micros() as u64;
            self.shared.post(Call::Ping { stamp_us });
            self.watch(now, watch);
        }
        self.send_control();
        self.run_foreign();
        let requests = self.shared.progress_requests.as_ref();
        let unattended = requests.is_some_and(|requests| requests.take())
            || self.shared.pending.load(Ordering::SeqCst) > 0
            || self.shared.inbox_filled.load(Ordering::SeqCst)
            || self.shared.core.is_poisoned();
        if unattended && self.shared.try_take_seat() {
            self.attend(&mut self.shared.sit());
            self.control_events(Some(Duration::ZERO), watch);
        } else {
            let timeout = watch.next_ping.saturating_duration_since(Instant::now());
            self.control_events(Some(timeout), watch);
        }
        ControlFlow::Continue(())
    }

    /// One turn in the seat, given up as soon as somebody waits for it.
    fn attend(&self, core: &mut Core) {
        let shared = &self.shared;
        shared.drain(core);
        core.poll_board();
        // Somebody may wait for room, though nothing is awaited here.
        core.poll(Some(Duration::ZERO));
        core.flush();
        shared.finish_step(core);
        if shared.pending.load(Ordering::SeqCst) > 0 && !shared.seat.is_wanted() {
            shared.sleep(core, Instant::now(), SERVICE_SLEEP, &mut |_| false);
        } else {
            core.tick(Instant::now());
        }
        core.flush();
        shared.finish_step(core);
    }

    /// Writes the records of groups that have failed, wakes futures whose operations have ended, and drops what nobody takes. Code that panics here harms
    /// only its own task.
    fn run_foreign(&self) {
        let Foreign { wakers, orphans, failed } = std::mem::take(&mut *lock(&self.shared.foreign));
        for who in failed {
            // The log is foreign code, too.
            let _ = catch_unwind(AssertUnwindSafe(|| who.dump.write(&who)));
        }
        for waker in wakers {
            let _ = catch_unwind(AssertUnwindSafe(|| waker.wake()));
        }
        for orphan in orphans {
            let _ = catch_unwind(AssertUnwindSafe(|| drop(orphan)));
        }
    }

    fn send_control(&mut self) {
        // Before the queue is looked at: what is put there afterwards says so again.
        self.shared.control_waits.store(false, Ordering::SeqCst);
        loop {
            let Some((peer, frame)) = lock(&self.shared.control_out).pop_front() else { return };
            // A peer that is gone or does not read is noticed elsewhere.
            let _ = self.control.send(peer, frame.as_bytes());
        }
    }

    fn control_events(&mut self, timeout: Option<Duration>, watch: &mut Watch) {
        let Watch { heard, gone, .. } = watch;
        let mut calls = Vec::new();
        self.control.poll(timeout, &mut |event| match event {
            ControlEvent::Frame { peer, header, payload } => {
                heard[peer.index()] = Instant::now();
                match Message::decode(&header, payload) {
                    Ok(message) => calls.push(Call::Control(peer, header, Box::new(message))),
                    Err(error) => calls.push(Call::Garbled(peer, error.to_string())),
                }
            }
            ControlEvent::Closed { peer, cause } => {
                gone[peer.index()] = true;
                calls.push(Call::ControlClosed(peer, cause));
            }
        });
        for call in calls {
            self.shared.enqueue(call);
        }
    }

    /// Reports peers whose connection stands but says nothing.
    fn watch(&self, now: Instant, watch: &mut Watch) {
        let Watch { heard, gone, .. } = watch;
        for (index, at) in heard.iter().enumerate() {
            let peer = Peer(index as u32);
            let silent = now.saturating_duration_since(*at);
            if peer != self.me && !gone[index] && silent > self.shared.config.peer_timeout {
                gone[index] = true;
                let why = format!("nothing was heard for {silent:.1?}");
                self.shared.enqueue(Call::Silent(peer, why));
            }
        }
    }

    /// Delivers what was sent and says goodbye.
    fn close(&mut self) {
        let deadline = Instant::now() + self.shared.config.linger.min(FAR);
        self.shared.with_core(|core| {
            self.shared.drain(core);
            core.leave();
            self.shared.finish_step(core);
        });
        // Peers that have nothing to do look at their links when they hear of it.
        self.send_control();
        self.shared.with_core(|core| {
            core.shutdown(deadline);
            self.shared.finish_step(core);
        });
        self.run_foreign();
        self.send_control();
        let _ = self.control.shutdown(deadline, &mut |_| {});
    }
}

#[cfg(test)]
mod tests {
    use allhands_transport::local;

    use super::*;

    #[test]
    fn a_forked_copy_of_a_mesh_is_dropped_without_a_word() {
        let (links, control) = local::fabric(1).remove(0);
        let config = MeshConfig::new(Cores::OneEach);
        let mut mesh = Mesh::start(Box::new(links), Box::new(control), config).unwrap();
        let shared = mesh.shared.clone();
        mesh.process ^= 1;
        drop(mesh);
        assert!(!shared.closing.load(Ordering::Acquire));
    }
}
