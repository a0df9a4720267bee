//! Holding the other threads still for the length of a step.
//!
//! Each is sent a signal with a value of ours, which the handler answers by waiting on [`GENERATION`]. A thread that does
//! not answer in time (it sleeps in the kernel uninterruptibly) is deaf: steps do not wait for it again.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

use libc::{SIGFPE, c_int, siginfo_t};

use crate::{arming, hook, sys};

/// The kernel keeps one signal of a number (signal(7)): what else would raise it meanwhile is dropped. A division that fails does so again
/// when its thread goes on; a breakpoint or a step, behind which the thread is then, would never be told of.
const SIGNAL: c_int = SIGFPE;
const PATIENCE_NS: i64 = 500_000_000;
const LOOK_AGAIN_NS: i64 = 50_000;
/// Looks.
const ASK_AGAIN_AFTER: u32 = 20;
const MAX_THREADS: usize = 16384;

/// Odd while threads are to stay parked. A futex word.
static GENERATION: AtomicU32 = AtomicU32::new(0);
/// Threads that are parked: the generation in the high half, their number in the low half.
static PARKED: AtomicU64 = AtomicU64::new(0);
/// Their ids, in order of arrival; the first 0 ends them.
static ARRIVED: [AtomicI32; MAX_THREADS] = [const { AtomicI32::new(0) }; MAX_THREADS];

struct Asked {
    tids: UnsafeCell<[i32; MAX_THREADS]>,
    directory: UnsafeCell<[u8; 1024]>,
}

// SAFETY: touched under the region lock only.
unsafe impl Sync for Asked {}

/// Threads that were asked to park in this step, and room to list them: not on the stack, which may be a small one.
static ASKED: Asked = Asked { tids: UnsafeCell::new([0; MAX_THREADS]), directory: UnsafeCell::new([0; 1024]) };

const MAX_DEAF: usize = 64;
/// Threads that did not answer once.
static DEAF: [AtomicI32; MAX_DEAF] = [const { AtomicI32::new(0) }; MAX_DEAF];

/// The value that a parking signal carries: an address that nobody else has.
fn cookie() -> usize {
    &raw const GENERATION as usize
}

/// Where si_value is in a queued signal's siginfo_t (asm-generic/siginfo.h).
const SI_VALUE: usize = 24;

pub fn is_parking(info: &siginfo_t) -> bool {
    // SAFETY: inside the structure.
    let value = unsafe { (&raw const *info).cast::<u8>().add(SI_VALUE).cast::<usize>().read() };
    info.si_code == libc::SI_QUEUE && value == cookie()
}

fn parked_count(generation: u32) -> Option<usize> {
    let parked = PARKED.load(Ordering::Acquire);
    ((parked >> 32) as u32 == generation).then_some(parked as u32 as usize)
}

/// Called by the handler of a thread that was asked to park, as its last act. Returns when it may go on; at once, if the
/// asking is over.
pub fn stay_parked() {
    let generation = GENERATION.load(Ordering::Acquire);
    if generation & 1 == 0 {
        return;
    }
    let place = loop {
        let Some(count) = parked_count(generation) else { return };
        let now = u64::from(generation) << 32 | count as u64;
        if PARKED.compare_exchange(now, now + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            break count;
        }
    };
    if let Some(arrived) = ARRIVED.get(place) {
        arrived.store(sys::gettid(), Ordering::Release);
    }
    // Asked again meanwhile, it would park inside its parking, and its stack may be a small one. The handler's return opens
    // the mask, with its frame gone.
    sys::block_signals(!0);
    while GENERATION.load(Ordering::Acquire) == generation {
        sys::futex_wait(GENERATION.as_ptr(), generation);
    }
}

/// Whom to wait for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Not again for those who did not answer once.
    OnceEach,
    WithAll,
}

/// Returns when every other thread that runs program code is parked, as far as that can be had: false if a thread is deaf, for it
/// may run program code again at any time. Under the region lock.
pub fn park_others(patience: Patience) -> bool {
    if patience == Patience::WithAll {
        DEAF.iter().for_each(|deaf| deaf.store(0, Ordering::Relaxed));
    }
    let generation = GENERATION.load(Ordering::Relaxed) + 1;
    for arrived in ARRIVED.iter().take_while(|arrived| arrived.load(Ordering::Relaxed) != 0) {
        arrived.store(0, Ordering::Relaxed);
    }
    PARKED.store(u64::from(generation) << 32, Ordering::Release);
    GENERATION.store(generation, Ordering::Release);
    // SAFETY: under the region lock.
    let tids = unsafe { &mut *ASKED.tids.get() };
    let mut asked = 0;
    // Until a look finds nobody new: a thread that was not parked yet may have started another.
    loop {
        let before = asked;
        asked = ask_new(tids, asked);
        wait_for(&tids[before..asked]);
        if asked == before {
            let pid = sys::getpid();
            return !tids[..asked].iter().any(|&tid| is_deaf(tid) && sys::thread_exists(pid, tid));
        }
    }
}

pub fn release() {
    GENERATION.fetch_add(1, Ordering::Release);
    sys::futex_wake_all(GENERATION.as_ptr());
}

fn is_deaf(tid: i32) -> bool {
    DEAF.iter().any(|deaf| deaf.load(Ordering::Relaxed) == tid)
}

/// Sends the signal to threads that have not had it; returns how many have now.
fn ask_new(tids: &mut [i32; MAX_THREADS], mut asked: usize) -> usize {
    let (pid, me) = (sys::getpid(), sys::gettid());
    // SAFETY: under the region lock.
    sys::each_thread(unsafe { &mut *ASKED.directory.get() }, |tid| {
        let known = tid == me
            || tids[..asked].contains(&tid)
            || arming::is_helper(tid)
            || hook::is_helper(tid)
            || sys::is_kernel_worker(tid);
        if !known && asked < MAX_THREADS && sys::queue_signal(pid, tid, SIGNAL, &asking()) {
            tids[asked] = tid;
            asked += 1;
        }
    });
    asked
}

fn asking() -> siginfo_t {
    // SAFETY: all-zero is a valid siginfo_t, and the value lies inside it.
    unsafe {
        let mut info: siginfo_t = core::mem::zeroed();
        info.si_signo = SIGNAL;
        info.si_code = libc::SI_QUEUE;
        (&raw mut info).cast::<u8>().add(SI_VALUE).cast::<usize>().write(cookie());
        info
    }
}

/// Waits until each of these is parked, or gone, or has shown itself deaf.
fn wait_for(new: &[i32]) {
    let pid = sys::getpid();
    let arrived = |tid: i32| {
        ARRIVED
            .iter()
            .map(|arrived| arrived.load(Ordering::Acquire))
            .take_while(|&other| other != 0)
            .any(|other| other == tid)
    };
    let start = sys::monotonic_ns();
    let mut looks = 0;
    let is_settled = |tid: i32| arrived(tid) || is_deaf(tid) || !sys::thread_exists(pid, tid);
    while !new.iter().all(|&tid| is_settled(tid)) {
        if sys::monotonic_ns() - start > PATIENCE_NS {
            for &tid in new.iter().filter(|&&tid| !is_settled(tid)) {
                if let Some(free) = DEAF.iter().find(|deaf| deaf.load(Ordering::Relaxed) == 0) {
                    free.store(tid, Ordering::Relaxed);
                }
            }
            return;
        }
        sys::sleep_ns(LOOK_AGAIN_NS);
        looks += 1;
        if looks % ASK_AGAIN_AFTER != 0 {
            continue;
        }
        // Again: a signal is lost while another of its number is pending (signal(7)), and harmless when it comes late.
        for &tid in new.iter().filter(|&&tid| !is_settled(tid)) {
            sys::queue_signal(pid, tid, SIGNAL, &asking());
        }
    }
}

/// In a forked child nobody is parked, whatever the parent was doing.
pub fn after_fork() {
    GENERATION.fetch_and(!1, Ordering::Relaxed);
    for deaf in &DEAF {
        deaf.store(0, Ordering::Relaxed);
    }
}
