//! Plans that are wrong in ways that real sockets hide, and what the checker says of them.

use super::check;
use crate::algorithm::Algorithm;
use crate::builder::Builder;
use crate::plan::{Buffer, Finish, Local, Order, Plan, Rank, Span};
use crate::shape::Shape;

const SHAPE: Shape = Shape::AllReduce { len: 4 };
const DATA: Span = Span::new(Buffer::Data, 0, 4);
const SCRATCH: Span = Span::new(Buffer::Scratch, 0, 4);

/// Two ranks, each written by `write` with its pen and partner.
fn pair(write: impl Fn(&mut Builder, Rank)) -> [Plan; 2] {
    [0, 1].map(|rank| {
        let mut pen = Builder::new(&SHAPE, Algorithm::Direct, 2, Rank(rank), 2);
        pen.scratch(4);
        write(&mut pen, Rank(1 - rank));
        pen.build()
    })
}

fn own(pen: &Builder) -> Option<Local> {
    Some(Local { span: DATA, at: pen.rank().0 })
}

#[track_caller]
fn refused(plans: &[Plan], message: &str) {
    match check(plans) {
        Ok(proof) => panic!("accepted: {proof:?}"),
        Err(defect) => assert_eq!(defect.to_string(), message),
    }
}

#[test]
fn sends_that_wait_for_each_other_deadlock() {
    let plans = pair(|pen, peer| {
        pen.send(0, "exchange", &[], [(peer, DATA)]);
        pen.recv_reduce(0, "combine", &[], [peer], own(pen), DATA, Finish::Last);
    });
    refused(
        &plans,
        "deadlock: rank 0, lane 0, step 0 (exchange) waits for message 0 with rank 1; \
         rank 1, lane 0, step 0 (exchange) waits for message 0 with rank 0",
    );
}

#[test]
fn what_is_being_sent_must_not_be_written() {
    let plans = pair(|pen, peer| {
        pen.send(0, "exchange", &[], [(peer, DATA)]);
        pen.recv_reduce(1, "combine", &[], [peer], own(pen), DATA, Finish::Last);
    });
    let span = "Span { buffer: Data, offset: 0, len: 4 }";
    refused(
        &plans,
        &format!(
            "rank 0, lane 0, step 0 (exchange) and rank 0, lane 1, step 0 (combine) may run at \
             the same time on {span}"
        ),
    );
}

#[test]
fn scratch_is_undefined_until_it_is_written() {
    let plans = pair(|pen, peer| {
        pen.send(0, "exchange", &[], [(peer, SCRATCH)]);
        pen.recv_reduce(1, "combine", &[], [peer], own(pen), DATA, Finish::Last);
    });
    let span = "Span { buffer: Scratch, offset: 0, len: 4 }";
    refused(
        &plans,
        &format!("rank 0, lane 0, step 0 (exchange) reads {span} before all of it is written"),
    );
}

#[test]
fn a_result_is_marked_once() {
    let exchange = |finish| {
        pair(move |pen, peer| {
            pen.send(0, "exchange", &[], [(peer, DATA)]);
            pen.recv(1, "receive", &[], [(peer, SCRATCH)]);
            pen.reduce(1, "combine", &[(0, 1)], [SCRATCH], own(pen), DATA, finish);
        })
    };
    assert!(check(&exchange(Finish::Last)).is_ok());
    refused(
        &exchange(Finish::Keep),
        "element 0 of the data of rank 0 went through 0 last reductions",
    );
}

#[test]
fn an_order_is_canonical_only_if_it_is() {
    let mut plans = Plan::build_all(&SHAPE, Algorithm::Ring, 4).expect("a ring of four");
    for plan in &mut plans {
        plan.exact_order = Order::Canonical;
    }
    refused(
        &plans,
        "element 0 on rank 0 is combined as [(0+[(3+[(1+2)])])], \
         which the canonical order of exact dtypes does not allow",
    );
}

#[test]
fn lengths_are_compared_and_missing_plans_noticed() {
    refused(&[], "no plans to check; pass those of all ranks");
    let mut plans = Plan::build_all(&SHAPE, Algorithm::Direct, 3).expect("three ranks");
    plans.pop();
    refused(&plans, "the plan of rank 0 disagrees with the others in its world size");
    let mut plans = Plan::build_all(&SHAPE, Algorithm::Direct, 2).expect("two ranks");
    plans[0].parts[0].span.len = 3;
    refused(
        &plans,
        "rank 0, lane 0, step 0 (send to all) sends 3 elements, \
         rank 1, lane 1, step 0 (receive from all) expects 4",
    );
}
