use std::future::Future;

use tokio::signal::unix::{SignalKind, signal};

/// The program was told to end: by Ctrl-C, or by this signal.
#[derive(Debug, Clone, Copy)]
pub(super) struct Interrupted {
    signal: i32,
}

impl Interrupted {
    /// The exit code by which a shell knows that a signal ended the program.
    pub(super) fn exit_code(self) -> u8 {
        u8::try_from(128 + self.signal).unwrap_or(u8::MAX)
    }
}

/// Does the work, unless the program is told to end first: then the work is dropped, so that its
/// owner can clean up.
pub(super) async fn unless_interrupted<T>(work: impl Future<Output = T>) -> Result<T, Interrupted> {
    let told = async {
        let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
            signal(SignalKind::hangup()),
        ) else {
            // Without handlers the signals end the program at once, as they do by default.
            return std::future::pending().await;
        };
        let kind = tokio::select! {
            _ = interrupt.recv() => SignalKind::interrupt(),
            _ = terminate.recv() => SignalKind::terminate(),
            _ = hangup.recv() => SignalKind::hangup(),
        };
        Interrupted {
            signal: kind.as_raw_value(),
        }
    };
    tokio::select! {
        result = work => Ok(result),
        interrupted = told => Err(interrupted),
    }
}
