//! Stops a Lua state from outside, where that can be done only by the state itself: it looks here
//! every few thousand instructions, and so computes at less than half of its speed.

use std::sync::atomic::{AtomicBool, Ordering};

/// What a state is told. It heeds that between two of its own instructions, not within a function of
/// C that takes its time.
#[derive(Debug, Default)]
pub(crate) struct Brake {
    stopped: AtomicBool,
    /// Whether a chunk runs that may be interrupted.
    in_chunk: AtomicBool,
    interrupted: AtomicBool,
}

impl Brake {
    /// Has the state end, whatever it does.
    pub(crate) fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    /// Has the chunk end that runs. Does nothing where none runs.
    pub(crate) fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed) && self.in_chunk.load(Ordering::Relaxed)
    }

    /// To be called before a chunk runs; an interrupt that came before was for another one.
    pub(crate) fn begin_chunk(&self) {
        self.interrupted.store(false, Ordering::Relaxed);
        self.in_chunk.store(true, Ordering::Relaxed);
    }

    pub(crate) fn end_chunk(&self) {
        self.in_chunk.store(false, Ordering::Relaxed);
    }
}
