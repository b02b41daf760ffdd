use std::future::Future;

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Knows whether the program was told to end: by Ctrl-C, or by another signal that asks for it.
#[derive(Debug, Clone)]
pub(super) struct Interrupts {
    told: watch::Receiver<Option<Interrupted>>,
}

/// The program was told to end by this signal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted {
    signal: i32,
}

impl Interrupts {
    /// Listens from now on. A second signal changes nothing: the clean-up is finished first.
    pub(super) fn listen() -> anyhow::Result<Self> {
        Self::listen_to(&[
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ])
    }

    /// The same for a program to which Ctrl-C means something else.
    pub(super) fn listen_without_ctrl_c() -> anyhow::Result<Self> {
        Self::listen_to(&[
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ])
    }

    fn listen_to(kinds: &[SignalKind]) -> anyhow::Result<Self> {
        let (sender, told) = watch::channel(None);
        for &kind in kinds {
            let signals = signal(kind).context("cannot listen for signals")?;
            tokio::spawn(tell(signals, kind.as_raw_value(), sender.clone()));
        }
        Ok(Self { told })
    }

    /// Does the work, unless the program is or was told to end: then the work is dropped, so that
    /// its owner can clean up.
    pub(super) async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Interrupted> {
        let mut told = self.told.clone();
        let told = async {
            loop {
                if let Some(interrupted) = *told.borrow_and_update() {
                    return interrupted;
                }
                if told.changed().await.is_err() {
                    // Nobody listens any more: the runtime is going down.
                    std::future::pending::<()>().await;
                }
            }
        };
        tokio::select! {
            biased;
            interrupted = told => Err(interrupted),
            result = work => Ok(result),
        }
    }
}

impl Interrupted {
    /// What Ctrl-C is to a program that reads it as a key.
    #[cfg(feature = "xcpng")]
    pub(super) fn by_ctrl_c() -> Self {
        Self {
            signal: SignalKind::interrupt().as_raw_value(),
        }
    }

    /// The exit code by which a shell knows that a signal ended the program.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(128 + self.signal).unwrap_or(u8::MAX)
    }
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

async fn tell(mut signals: Signal, signal: i32, sender: watch::Sender<Option<Interrupted>>) {
    if signals.recv().await.is_some() {
        sender.send_replace(Some(Interrupted { signal }));
    }
}
