//! Lending borrowed slices to another thread, with the guarantee that they come back.
//!
//! This is the one place where a borrow is carried across threads by hand. [`lend_scope`] works in
//! the manner of [`std::thread::scope`], but what leaves the scope is not a thread: it is a token
//! ([`LentMut`], [`LentRef`]) without a lifetime, which any thread may hold, use and drop. The
//! scope does not return, not even by a panic, before each token is dropped.
//!
//! A token costs one atomic increment and one atomic decrement; nothing is allocated. A scope
//! whose tokens are gone when its closure ends returns at once. Otherwise it spins, yields, and
//! then parks; the last token wakes it.
//!
//! ```
//! use allhands_tensor::lend::lend_scope;
//!
//! let mut data = vec![0u8; 4];
//! lend_scope(|scope| {
//!     let mut token = scope.lend_mut(&mut data);
//!     std::thread::spawn(move || token.fill(7)); // a thread that is never joined
//! });
//! assert_eq!(data, [7; 4]); // yet the write is over, and visible
//! ```
//!
//! A token that is never dropped keeps its scope waiting for ever. That is the price of
//! soundness; who holds tokens gives them back within a deadline of their own.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use primitive::{AtomicUsize, Thread, UnsafeCell, fence, thread};

/// The one way to what loom replaces. The ledger is model-checked with
/// `RUSTFLAGS="--cfg loom" cargo test --release -p allhands-tensor --lib lend`.
mod primitive {
    #[cfg(loom)]
    pub(super) use loom::{
        cell::UnsafeCell,
        sync::atomic::{AtomicUsize, fence},
        thread::{self, Thread},
    };
    #[cfg(not(loom))]
    pub(super) use std::{
        sync::atomic::{AtomicUsize, fence},
        thread::{self, Thread},
    };

    /// The standard cell with loom's interface.
    #[cfg(not(loom))]
    pub(super) struct UnsafeCell<T>(std::cell::UnsafeCell<T>);

    #[cfg(not(loom))]
    impl<T> UnsafeCell<T> {
        pub(super) const fn new(value: T) -> Self {
            UnsafeCell(std::cell::UnsafeCell::new(value))
        }

        #[inline]
        pub(super) fn with<R>(&self, body: impl FnOnce(*const T) -> R) -> R {
            body(self.0.get())
        }

        #[inline]
        pub(super) fn with_mut<R>(&self, body: impl FnOnce(*mut T) -> R) -> R {
            body(self.0.get())
        }
    }
}

/// Turns of the first wait, with the processor's pause hint. The model goes straight to parking.
const SPINS: u32 = if cfg!(loom) { 0 } else { 64 };
/// Turns of the second wait, each of which offers the processor to another thread.
const YIELDS: u32 = if cfg!(loom) { 0 } else { 32 };

/// Set in [`Ledger::state`] while the scope's thread is (about to be) parked.
const PARKED: usize = 1;
/// One token in [`Ledger::state`].
const TOKEN: usize = 2;
/// More tokens than this at once are refused, far from an overflow of the counter.
const TOKENS_MAX: usize = usize::MAX / 4;

/// What a scope and its tokens share. It lives in the frame of [`lend_scope`].
struct Ledger {
    /// Live tokens times [`TOKEN`], plus [`PARKED`].
    state: AtomicUsize,
    /// Whom the last token wakes. Written before PARKED is set, read only after PARKED was seen.
    waiter: UnsafeCell<Option<Thread>>,
}

impl Ledger {
    fn new() -> Ledger {
        Ledger { state: AtomicUsize::new(0), waiter: UnsafeCell::new(None) }
    }

    /// Waits until no token is left.
    fn settle(&self) {
        for _ in 0..SPINS {
            if self.state.load(Ordering::Acquire) == 0 {
                return;
            }
            std::hint::spin_loop();
        }
        for _ in 0..YIELDS {
            if self.state.load(Ordering::Acquire) == 0 {
                return;
            }
            thread::yield_now();
        }
        // SAFETY: Only this thread writes the cell, once, and tokens read it only after they have
        // seen PARKED, which is set below; so nobody reads it now.
        self.waiter.with_mut(|waiter| unsafe { *waiter = Some(thread::current()) });
        // Release: who sees PARKED also sees the waiter.
        self.state.fetch_or(PARKED, Ordering::AcqRel);
        while self.state.load(Ordering::Acquire) != PARKED {
            // May return for no reason, hence the loop. A token that is dropped between the load
            // and the park has seen PARKED, so its unpark makes the park return at once.
            thread::park();
        }
    }

    /// Notes one more token.
    fn open(&self) {
        // Relaxed: only the scope's thread (or one that it shares the scope with) opens, and the
        // token itself is handed on by means that synchronise.
        let before = self.state.fetch_add(TOKEN, Ordering::Relaxed);
        assert!(before < TOKENS_MAX, "too many slices lent at once in one scope");
    }

    /// Notes that a token is gone.
    ///
    /// # Safety
    /// * `ledger` points to a live ledger, and the caller owns one of its open tokens.
    /// * The caller does not touch the ledger afterwards: it may be gone.
    unsafe fn close(ledger: NonNull<Ledger>) {
        // SAFETY: Our own token is still counted, so the scope waits and the ledger is alive. The
        // atomic is reached through a reference to it alone, which is not used after the exchange
        // that may end the ledger's life has succeeded.
        let state = unsafe { &(*ledger.as_ptr()).state };
        let mut seen = state.load(Ordering::Relaxed);
        loop {
            let mut waiter = None;
            if seen == TOKEN + PARKED {
                // Acquire, so that the waiter written before PARKED is visible.
                fence(Ordering::Acquire);
                // SAFETY: PARKED was seen, so the cell was written and will not be written again;
                // our token is still counted, so it is alive.
                let cell = unsafe { &(*ledger.as_ptr()).waiter };
                // SAFETY: As above: nobody writes the cell any more.
                waiter = cell.with(|waiter| unsafe { (*waiter).clone() });
            }
            // Release: what was done through the token happens before the scope's return.
            match state.compare_exchange_weak(
                seen,
                seen - TOKEN,
                Ordering::Release,
                Ordering::Relaxed,
            ) {
                Ok(_) => {
                    // Nothing here touches the ledger: the handle is our own clone.
                    if let Some(thread) = waiter {
                        thread.unpark();
                    }
                    return;
                }
                Err(now) => seen = now,
            }
        }
    }
}

/// Waits for the tokens when the frame ends, in whichever way it ends.
struct Settle<'a>(&'a Ledger);

impl Drop for Settle<'_> {
    fn drop(&mut self) {
        self.0.settle();
    }
}

/// Hands out tokens for slices that outlive the scope; see [`lend_scope`].
#[derive(Debug)]
pub struct LendScope<'scope, 'env: 'scope> {
    ledger: &'scope Ledger,
    // Invariant in both lifetimes, as in std::thread::scope: a shorter 'env must not be passed off
    // as the one that outlives the scope.
    scope: PhantomData<&'scope mut &'scope ()>,
    env: PhantomData<&'env mut &'env ()>,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger")
            .field("tokens", &(self.state.load(Ordering::Relaxed) / TOKEN))
            .finish()
    }
}

// SAFETY: `state` is atomic. `waiter` is written by the scope's own thread only (in `settle`, which
// is private to `lend_scope`) and read under the protocol described there.
unsafe impl Sync for Ledger {}

/// Runs `body` with a scope that can lend slices to other threads, and returns when `body` has
/// ended and each token is dropped.
///
/// Slices must be borrowed for longer than the scope (`'env`), so they are out of reach until it
/// returns. If `body` panics, the panic goes on once the tokens are back.
///
/// Do not return a token from `body`: the scope would wait for it for ever.
///
/// ```
/// use allhands_tensor::lend::lend_scope;
/// let input = [1u8, 2, 3];
/// let sum = lend_scope(|scope| {
///     let token = scope.lend(&input);
///     std::thread::spawn(move || token.iter().sum::<u8>()).join().unwrap_or(0)
/// });
/// assert_eq!(sum, 6);
/// ```
///
/// A slice that does not outlive the scope is refused by the compiler:
///
/// ```compile_fail
/// use allhands_tensor::lend::lend_scope;
/// lend_scope(|scope| {
///     let mut local = [0u8; 4];
///     drop(scope.lend_mut(&mut local));
/// });
/// ```
///
/// So is a second use of a slice that was lent for writing:
///
/// ```compile_fail
/// use allhands_tensor::lend::lend_scope;
/// let mut data = [0u8; 4];
/// lend_scope(|scope| {
///     let token = scope.lend_mut(&mut data);
///     data[0] = 1;
///     drop(token);
/// });
/// ```
pub fn lend_scope<'env, F, R>(body: F) -> R
where
    F: for<'scope> FnOnce(&'scope LendScope<'scope, 'env>) -> R,
{
    let ledger = Ledger::new();
    // Made before the body runs, dropped before the ledger: it also waits when the body panics.
    let settle = Settle(&ledger);
    let result = body(&LendScope { ledger: &ledger, scope: PhantomData, env: PhantomData });
    drop(settle);
    result
}

impl<'env> LendScope<'_, 'env> {
    /// Lends a slice for reading and writing.
    pub fn lend_mut(&self, bytes: &'env mut [u8]) -> LentMut {
        self.ledger.open();
        LentMut { bytes: NonNull::from(bytes), ledger: NonNull::from(self.ledger) }
    }

    /// Lends a slice for reading.
    pub fn lend(&self, bytes: &'env [u8]) -> LentRef {
        self.ledger.open();
        LentRef { bytes: NonNull::from(bytes), ledger: NonNull::from(self.ledger) }
    }

    /// Tokens that are not dropped yet. A snapshot, for diagnostics.
    pub fn outstanding(&self) -> usize {
        self.ledger.state.load(Ordering::Relaxed) / TOKEN
    }
}

/// Exclusive access to a lent slice. Dropping it gives the slice back.
pub struct LentMut {
    bytes: NonNull<[u8]>,
    ledger: NonNull<Ledger>,
}

// SAFETY: The token is the only access to its bytes while it lives (the lender's borrow lasts
// until the scope ends, and the scope waits), and bytes may be used from any thread. The ledger is
// only reached through `close`, which is made for that.
unsafe impl Send for LentMut {}
// SAFETY: A shared token gives only `&[u8]`, which is Sync.
unsafe impl Sync for LentMut {}

impl Deref for LentMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: The bytes were borrowed mutably for 'env, which outlives the scope, and the scope
        // does not return while this token is counted. Nobody else can reach them meanwhile.
        unsafe { self.bytes.as_ref() }
    }
}

impl DerefMut for LentMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: As in `deref`; `&mut self` makes the access exclusive.
        unsafe { self.bytes.as_mut() }
    }
}

impl Drop for LentMut {
    fn drop(&mut self) {
        // SAFETY: `lend_mut` opened this token, and it is closed once, here, as the last thing.
        unsafe { Ledger::close(self.ledger) };
    }
}

impl std::fmt::Debug for LentMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LentMut").field("len", &self.len()).finish()
    }
}

/// Shared access to a lent slice. Dropping it gives the slice back.
pub struct LentRef {
    bytes: NonNull<[u8]>,
    ledger: NonNull<Ledger>,
}

// SAFETY: The bytes are borrowed immutably until the scope ends, and the scope waits for this
// token; reading bytes from any thread is fine. The ledger is only reached through `close`.
unsafe impl Send for LentRef {}
// SAFETY: A shared token gives only `&[u8]`, which is Sync.
unsafe impl Sync for LentRef {}

impl Deref for LentRef {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: The bytes were borrowed for 'env, which outlives the scope, and the scope does not
        // return while this token is counted.
        unsafe { self.bytes.as_ref() }
    }
}

impl Drop for LentRef {
    fn drop(&mut self) {
        // SAFETY: `lend` opened this token, and it is closed once, here, as the last thing.
        unsafe { Ledger::close(self.ledger) };
    }
}

impl std::fmt::Debug for LentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LentRef").field("len", &self.len()).finish()
    }
}

#[cfg(all(test, loom))]
mod model {
    //! Every interleaving of a waiting scope and one or two tokens. Loom reports a lost wake-up as
    //! a deadlock, and an unsynchronised access to the waiter or the data as a race.

    use super::*;

    /// Preemptions that loom explores per execution; the whole takes seconds.
    const PREEMPTIONS_MAX: usize = 4;

    /// What a scope's frame holds: the ledger, and data that tokens write.
    struct Frame {
        ledger: Ledger,
        data: [UnsafeCell<u8>; 2],
    }

    // SAFETY: Each cell is written by one token, and read once the ledger has settled.
    unsafe impl Sync for Frame {}

    fn check(tokens: usize) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(PREEMPTIONS_MAX);
        builder.check(move || {
            let frame = loom::sync::Arc::new(Frame {
                ledger: Ledger::new(),
                data: [UnsafeCell::new(0), UnsafeCell::new(0)],
            });
            for token in 0..tokens {
                frame.ledger.open();
                let frame = loom::sync::Arc::clone(&frame);
                thread::spawn(move || {
                    // SAFETY: This token's own cell.
                    frame.data[token].with_mut(|data| unsafe { *data = 7 });
                    // SAFETY: The frame is alive by its count, and the token was opened above.
                    unsafe { Ledger::close(NonNull::from(&frame.ledger)) };
                });
            }
            frame.ledger.settle();
            for data in &frame.data[..tokens] {
                // SAFETY: All tokens are closed, so nobody writes any more.
                assert_eq!(data.with(|data| unsafe { *data }), 7);
            }
        });
    }

    #[test]
    fn one_token_is_awaited() {
        check(1);
    }

    #[test]
    fn two_tokens_are_awaited() {
        check(2);
    }
}
