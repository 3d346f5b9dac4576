//! A panic in the driver's seat: the group fails on every rank, at once, and says where.
#![allow(missing_docs, reason = "test code")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use allhands_collectives::{
    CallOptions, Communicator, Cores, DType, Error, GroupSpec, Links, Mesh, MeshConfig, Message,
    Peer, Rank, ReduceOp, Selection, Shape, Spec, Tensor, local,
};
use allhands_transport::{Capabilities, Port, Unfinished, Wake};

const WORLD: u32 = 3;

/// The rank whose links panic.
const CULPRIT: Rank = Rank(1);

/// Far longer than any of these tests may take: nothing may end by a timeout.
const LIMIT: Duration = Duration::from_secs(600);
const SOON: Duration = Duration::from_secs(60);

/// Who is in the seat when it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Driver {
    Caller,
    Service,
}

/// Links that panic once, when they are armed and `driver` uses them.
struct Brittle {
    links: local::LocalLinks,
    driver: Driver,
    armed: Arc<AtomicBool>,
}

impl Brittle {
    fn strain(&self) {
        let service = format!("allhands-{}", self.links.peer().0);
        let by_service = std::thread::current().name() == Some(&service);
        if by_service == (self.driver == Driver::Service)
            && self.armed.swap(false, Ordering::SeqCst)
        {
            panic!("links that were told to");
        }
    }
}

impl Links for Brittle {
    fn peer(&self) -> Peer {
        self.links.peer()
    }

    fn world(&self) -> u32 {
        self.links.world()
    }

    fn flush(&mut self, peer: Peer, port: &mut dyn Port) {
        self.strain();
        self.links.flush(peer, port);
    }

    fn receive(&mut self, peer: Peer, port: &mut dyn Port) -> usize {
        self.strain();
        self.links.receive(peer, port)
    }

    fn poll(&mut self, timeout: Option<Duration>, port: &mut dyn Port) -> usize {
        self.strain();
        self.links.poll(timeout, port)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.links.waker()
    }

    fn capabilities(&self) -> Capabilities {
        self.links.capabilities()
    }

    fn shutdown(&mut self, deadline: Instant, port: &mut dyn Port) -> Result<(), Unfinished> {
        self.links.shutdown(deadline, port)
    }
}

fn on_ranks(driver: Driver, work: impl Fn(&Communicator, &AtomicBool) + Sync) {
    let work = &work;
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (links, control) in local::fabric(WORLD) {
            scope.spawn(move || {
                let armed = Arc::new(AtomicBool::new(false));
                let links = Brittle { links, driver, armed: armed.clone() };
                let config = MeshConfig::new(Cores::Shared);
                let mesh = Mesh::start(Box::new(links), Box::new(control), config).unwrap();
                let members = (0..WORLD).map(Peer).collect();
                let spec = GroupSpec { id: 7, epoch: 0, members };
                let group =
                    Communicator::new(Arc::new(mesh), "brittle", spec, Selection::default());
                work(&group.unwrap(), &armed);
            });
        }
    });
    assert!(begun.elapsed() < SOON, "{driver:?}: {:?}", begun.elapsed());
}

fn sum() -> Spec {
    Spec::new(Shape::AllReduce { len: 8 }, Some(DType::U8), Some(ReduceOp::Sum))
}

fn options() -> CallOptions {
    CallOptions::default().with_timeout(LIMIT)
}

fn check(error: &Error) {
    assert!(matches!(error, Error::DriverPanicked { .. }), "{error}");
    assert_eq!(error.ranks(), [CULPRIT], "{error}");
}

/// One call that works, so that all ranks are there.
fn meet(group: &Communicator) {
    let mut bytes = [1; 8];
    group.run(&sum(), &options(), [], [&mut bytes[..]]).unwrap();
    assert_eq!(bytes, [WORLD as u8; 8]);
}

#[test]
fn a_caller_that_panics_while_it_drives_fails_the_group_everywhere() {
    on_ranks(Driver::Caller, |group, armed| {
        meet(group);
        let mut bytes = [1; 8];
        let mut run = || group.run(&sum(), &options(), [], [&mut bytes[..]]);
        if group.rank() == CULPRIT {
            armed.store(true, Ordering::SeqCst);
            // The call's memory is given back before the panic goes on.
            assert!(catch_unwind(AssertUnwindSafe(&mut run)).is_err());
            assert!(!armed.load(Ordering::SeqCst));
        }
        // What the culprit had sent before may have ended one call elsewhere.
        check(&(0..2).find_map(|_| run().err()).expect("the group goes on"));
        check(&run().unwrap_err());
    });
}

#[test]
fn a_service_thread_that_panics_while_it_drives_fails_the_group_everywhere() {
    on_ranks(Driver::Service, |group, armed| {
        meet(group);
        armed.store(group.rank() == CULPRIT, Ordering::SeqCst);
        let message = |peer| Message { peer, tag: 0, dtype: DType::U8 };
        if group.rank() == CULPRIT {
            // Nobody waits for what never comes, so the service thread looks for it.
            let tensor = Tensor::zeros(DType::U8, &[1]);
            let pending = group.start_recv(&message(Rank(0)), &options(), tensor);
            let begun = Instant::now();
            while !pending.is_completed() {
                assert!(begun.elapsed() < SOON, "nobody else finds that the driver panicked");
                std::thread::park_timeout(Duration::from_millis(1));
            }
            assert!(!armed.load(Ordering::SeqCst));
            let (result, buffers) = pending.wait();
            check(&result.unwrap_err());
            assert_eq!(buffers.outputs.len(), 1);
        }
        let other = Rank((group.rank().0 + 1) % WORLD);
        check(&group.recv(&message(other), &options(), &mut [0]).unwrap_err());
    });
}
