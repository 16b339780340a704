//! The allocator, and that it gives back what nobody uses.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// Gives the system back what an attack, or a busy hour, made us take: glibc's allocator keeps nearly all of it
/// (docs/siege.md has figures).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for what would hold up others: compressing large answers, reading files, asking for addresses. Tokio would
/// start 512, each with memory of its own; what is more waits.
const BLOCKING_THREADS: usize = 32;

/// How often threads look for what can be given back.
const EVERY: Duration = Duration::from_secs(10);

static ROUND: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COLLECTED: Cell<usize> = const { Cell::new(0) };
}

/// Small pages for all that this process allocates from now on: to be called first.
///
/// The allocator asks Linux for huge pages. Then what is given back comes back with the first byte that is used
/// again, 2 MiB at a time, and a server of 6 MiB has 12: after an attack it had kept some of each kind of object, in as
/// many huge pages.
pub(crate) fn use_small_pages() {
    // a system without huge pages, or a sandbox without this call: nothing is lost but memory
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// A runtime whose threads give back memory every 10 s, when they have nothing to do.
///
/// What a thread has allocated and another has freed, mimalloc gives back only when the first allocates again
/// or collects. Sessions move between threads, so most of what they leave behind is such memory.
pub(crate) fn runtime() -> io::Result<Runtime> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .on_thread_park(collect)
        .build()?;
    runtime.spawn(async {
        loop {
            tokio::time::sleep(EVERY).await;
            ROUND.fetch_add(1, Ordering::Relaxed);
        }
    });
    Ok(runtime)
}

#[expect(unsafe_code, reason = "the crate has no safe function for it")]
fn collect() {
    let round = ROUND.load(Ordering::Relaxed);
    if COLLECTED.replace(round) != round {
        // SAFETY: may be called at any time on any thread; it touches only what nobody uses.
        unsafe { libmimalloc_sys::mi_collect(true) };
    }
}
