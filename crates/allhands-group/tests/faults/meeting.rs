//! Ranks that cannot meet: each says why, whom it misses and what to do, in time.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use allhands_group::env::{EnvError, Launch, Launcher, REQUIRED};
use allhands_group::{
    Config, Error, Invalid, OperationError, ProcessGroup, Rank, ReduceOp, Tensor,
};
use allhands_store::{ClientOptions, ServerOptions, TcpStore};

use crate::ranks::{Ranks, free_port, leave, worker};
use crate::stage::{LIMIT, config, heard, kind, of_operation, ranks, threads};

/// How long ranks wait for each other here, in seconds.
const SECONDS: &str = "2";

/// Ranks give up long before this.
const PROMISE: Duration = Duration::from_secs(20);

/// In a rank: tries to meet, and says how that ended.
fn attend(folder: &Path) {
    let began = Instant::now();
    let met = ProcessGroup::from_env();
    assert!(began.elapsed() < PROMISE, "ended after {:?}", began.elapsed());
    let said = match &met {
        Ok(group) => format!("met: {}", group.world_size()),
        Err(error) => {
            let name = format!("{error:?}");
            let name = name.split([' ', '(', '{']).next().unwrap_or_default();
            format!("{name} {:?}: {error}", error.ranks())
        }
    };
    let index = std::env::var("INDEX").unwrap();
    leave(folder, &format!("said-{index}"), &said);
}

/// What processes say that were started with these variables.
fn meet(name: &str, equipment: &[&[(&str, &str)]]) -> Option<Vec<String>> {
    if let Some(folder) = worker() {
        attend(&folder);
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let indices: Vec<u32> = (0..equipment.len() as u32).collect();
    let equip = |index: u32, command: &mut Command| {
        let markers = Launcher::ALL.map(Launcher::marker);
        for variable in markers.iter().chain(&REQUIRED).chain(&["SLURM_JOB_ID"]) {
            command.env_remove(variable);
        }
        command.env("INDEX", index.to_string());
        command.env("ALLHANDS_RENDEZVOUS_TIMEOUT_SECONDS", SECONDS);
        command.envs(equipment[index as usize].iter().copied());
    };
    let began = Instant::now();
    let started = Ranks::start_some(name, &indices, folder.path(), equip);
    let ended = started.join(LIMIT);
    assert!(ended.iter().all(|&well| well), "{name}: {ended:?}");
    assert!(began.elapsed() < 2 * PROMISE, "{name} took {:?}", began.elapsed());
    Some(heard(folder.path(), equipment.len() as u32))
}

/// Asserts that `said` holds each of `facts`.
fn tells(said: &str, facts: &[&str]) {
    for fact in facts {
        assert!(said.contains(fact), "{fact:?} is not told: {said}");
    }
}

#[test]
fn unset_variables_are_named() {
    let equipment: [&[(&str, &str)]; 2] = [&[], &[("RANK", "0"), ("MASTER_ADDR", "127.0.0.1")]];
    let Some(said) = meet("meeting::unset_variables_are_named", &equipment) else { return };
    tells(&said[0], &["Environment", "no launcher", "none of RANK, FLUX_TASK_RANK", "torchrun"]);
    tells(
        &said[1],
        &["Environment", "RANK, MASTER_ADDR are set", "WORLD_SIZE, MASTER_PORT are not"],
    );
}

#[test]
fn different_world_sizes_are_told_with_both_numbers() {
    let name = "meeting::different_world_sizes_are_told_with_both_numbers";
    let port = free_port().to_string();
    let shared = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port)];
    let of = |rank, world| [("RANK", rank), ("WORLD_SIZE", world), shared[0], shared[1]];
    let equipment = [of("0", "2"), of("1", "3")];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    tells(&said[0], &["WorldSize [Rank(1)]", "rank 0", "world of 2", "rank 1 with 3"]);
    tells(&said[1], &["WorldSize [Rank(0)]", "rank 1", "world of 3", "rank 0 with 2"]);
}

#[test]
fn different_transports_are_told_with_both_names() {
    let name = "meeting::different_transports_are_told_with_both_names";
    let port = free_port().to_string();
    let shared = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port), ("WORLD_SIZE", "2")];
    let of = |rank, transport| {
        [("RANK", rank), ("ALLHANDS_TRANSPORT", transport), shared[0], shared[1], shared[2]]
    };
    let equipment = [of("0", "auto"), of("1", "tcp")];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    tells(&said[0], &["TransportChoice [Rank(1)]", "rank 0", "transport auto", "rank 1 with tcp"]);
    tells(&said[1], &["TransportChoice [Rank(0)]", "rank 1", "transport tcp", "rank 0 with auto"]);
}

#[test]
fn a_missing_rank_is_named() {
    let name = "meeting::a_missing_rank_is_named";
    let port = free_port().to_string();
    let shared = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port), ("WORLD_SIZE", "4")];
    let of = |rank| [("RANK", rank), shared[0], shared[1], shared[2]];
    // Rank 1 keeps the store a little longer than rank 0, or asks it in vain: both are told.
    let equipment = [of("0"), of("2")];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    tells(&said[0], &["Rendezvous [Rank(1), Rank(3)]", "2 of 4 ranks", "missing: 1, 3", "2s"]);
    tells(&said[1], &["rendezvous of rank 2 of 4"]);
}

#[test]
fn ranks_that_never_start_are_named_where_the_launcher_serves_the_store() {
    let name = "meeting::ranks_that_never_start_are_named_where_the_launcher_serves_the_store";
    let address: SocketAddr = ([127, 0, 0, 1], 0).into();
    let store = worker()
        .is_none()
        .then(|| TcpStore::host(address, ServerOptions::new(), ClientOptions::new()).unwrap());
    let port =
        store.as_ref().and_then(TcpStore::server).map_or(1, |server| server.local_addr().port());
    let port = port.to_string();
    let shared = [
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", &*port),
        ("WORLD_SIZE", "3"),
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
    ];
    let of = |rank| [("RANK", rank), shared[0], shared[1], shared[2], shared[3]];
    let equipment = [of("1"), of("2")];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    for one in &said {
        tells(one, &["Rendezvous [Rank(0)]", "missing: 0", "are all of them started"]);
    }
}

#[test]
fn a_taken_port_is_told_with_its_address() {
    let name = "meeting::a_taken_port_is_told_with_its_address";
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let shared = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port), ("WORLD_SIZE", "2")];
    let of = |rank| [("RANK", rank), shared[0], shared[1], shared[2]];
    let equipment = [of("0"), of("1")];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    tells(&said[0], &["Store", "rendezvous of rank 0 of 2", &format!("127.0.0.1:{port}")]);
    assert!(said[0].to_lowercase().contains("in use"), "{}", said[0]);
    // Whoever listens there does not answer as a store does.
    tells(&said[1], &["Store", "rendezvous of rank 1 of 2", &format!("127.0.0.1:{port}")]);
}

#[test]
fn an_unreachable_master_is_told_with_its_address() {
    let name = "meeting::an_unreachable_master_is_told_with_its_address";
    let port = free_port().to_string();
    let shared = [("MASTER_ADDR", "127.0.0.1"), ("MASTER_PORT", &*port), ("WORLD_SIZE", "2")];
    let equipment = [[("RANK", "1"), shared[0], shared[1], shared[2]]];
    let Some(said) = meet(name, &equipment.each_ref().map(|e| &e[..])) else { return };
    tells(&said[0], &["Store", "rendezvous of rank 1 of 2", &format!("127.0.0.1:{port}")]);
    tells(&said[0], &["refused"]);
}

#[test]
fn a_rank_beyond_the_world_is_refused() {
    let variables = |name: &str| {
        let value = match name {
            "RANK" => "5",
            "WORLD_SIZE" => "4",
            "MASTER_ADDR" => "127.0.0.1",
            "MASTER_PORT" => "1",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let error = Launch::from_variables(&variables).unwrap_err();
    assert!(matches!(error, EnvError::Rank { rank: 5, world_size: 4, .. }), "{error}");
}

/// What a call is refused for; nothing is sent, and the group goes on.
fn refused<T>(result: Result<T, Error>) -> (Invalid, String) {
    let error = result.err().expect("the call makes no sense");
    let OperationError::Invalid { reason, .. } = of_operation(&error) else {
        panic!("{}: {error}", kind(&error));
    };
    (reason.clone(), error.to_string())
}

#[test]
fn calls_that_make_no_sense_are_refused_and_the_group_goes_on() {
    threads(2, &Config { name: "trial".to_owned(), ..config() }, |group| {
        let rank = group.rank().0;
        let me = format!("on rank {rank} of 2 in group \"trial\"");
        let mut data = [1.0f32; 6];
        let (reason, text) = refused(group.broadcast(&mut data, Rank(2)));
        assert!(matches!(reason, Invalid::Rank { what: "root", .. }), "{text}");
        tells(&text, &["broadcast", &me, "root 2 is not in the group; ranks are 0 to 1"]);
        let (reason, text) = refused(group.all_gather_into(&[1.0f32; 2], &mut data));
        assert!(matches!(reason, Invalid::Length { found: 6, expected: 4, .. }), "{text}");
        tells(&text, &["all_gather", "output has 6 elements, 4 are needed"]);
        let (reason, text) = refused(group.all_gather_into(&[1i32; 3], &mut data));
        assert!(matches!(reason, Invalid::Dtype { .. }), "{text}");
        tells(&text, &["output holds f32, i32 is needed"]);
        let (reason, text) = refused(group.all_to_all_single(&[0.0f32; 3], &mut data));
        assert!(matches!(reason, Invalid::Indivisible { elements: 3, .. }), "{text}");
        let (reason, text) = refused(group.all_reduce(&mut data, ReduceOp::BitAnd));
        assert!(matches!(reason, Invalid::Reduction(_)), "{text}");
        tells(&text, &["f32"]);
        let (reason, text) = refused(group.send(&data, Rank(9), 0));
        assert!(matches!(reason, Invalid::Rank { what: "destination", .. }), "{text}");
        let (reason, text) = refused(group.recv(&mut data, Rank(9), 0));
        assert!(matches!(reason, Invalid::Rank { what: "source", .. }), "{text}");
        let (_, text) = refused(group.send(&data, group.rank(), 0));
        tells(&text, &["itself"]);

        // Tensors come back with the refusal.
        let input = Tensor::from_slice(&[1i64; 3]);
        let output = Tensor::from_slice(&[0.0f32; 6]);
        let failed = group.all_gather_into_async(input, output).wait().unwrap_err();
        let (input, output) = failed.buffers;
        assert_eq!((input.as_slice::<i64>().unwrap()[0], output.numel()), (1, 6));
        let (reason, text) = refused::<()>(Err(failed.error));
        assert!(matches!(reason, Invalid::Dtype { .. }), "{text}");
        let lists = vec![Tensor::from_slice(&[0.0f32; 3])];
        let failed = group.all_gather_async(Tensor::from_slice(&[0.0f32; 3]), lists).wait();
        let (reason, text) = refused(failed.map_err(Error::from));
        assert!(matches!(reason, Invalid::Entries { found: 1, expected: 2, .. }), "{text}");
        let nobody = group.all_to_all_async(Vec::new(), Vec::new()).wait();
        let (reason, text) = refused(nobody.map_err(Error::from));
        assert!(matches!(reason, Invalid::Entries { found: 0, expected: 2, .. }), "{text}");
        let failed = group.recv_async(Tensor::from_slice(&[0u8]), Rank(4), 0).wait().unwrap_err();
        assert_eq!(failed.buffers.numel(), 1);

        group.all_reduce(&mut data, ReduceOp::Sum).unwrap();
        assert_eq!(data, [2.0; 6]);
    });
}

#[test]
fn a_group_that_cannot_be_is_refused() {
    let store = allhands_store::HashStore::new();
    let error =
        ProcessGroup::connect(std::sync::Arc::new(store), Rank(3), 3, &config()).unwrap_err();
    tells(&error.to_string(), &["rank 3 does not exist in a world of 3"]);
    assert!(ranks(&[]).is_empty() && error.ranks().is_empty());
}

#[test]
fn a_group_can_be_made_again_under_the_same_name() {
    let store: std::sync::Arc<dyn allhands_store::Store> =
        std::sync::Arc::new(allhands_store::HashStore::new());
    let mut config = Config { rendezvous_timeout: LIMIT, ..Config::default() };
    config.tcp.master = Some(std::net::Ipv4Addr::LOCALHOST.into());
    let config = &config;
    for _ in 0..3 {
        std::thread::scope(|scope| {
            // The other rank first: it must not meet what rank 0 left behind.
            for rank in [1, 0] {
                let store = store.clone();
                scope.spawn(move || {
                    let group = ProcessGroup::connect(store, Rank(rank), 2, config).unwrap();
                    let mut sum = [1u32];
                    group.all_reduce(&mut sum, ReduceOp::Sum).unwrap();
                    assert_eq!(sum, [2]);
                });
            }
        });
    }
    assert!(store.list_keys().unwrap().is_empty(), "{:?}", store.list_keys());
}
