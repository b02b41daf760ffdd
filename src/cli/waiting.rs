//! What is being done, for whoever waits at a terminal: a line on standard error that goes again.

use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use bioxen_vm_xcpng::{Progress, StageState};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::CLEAR_LINE;
use super::telemetry::is_json;

/// The line.
pub(super) struct Line {
    is_drawn: bool,
    begun: Option<(String, Instant)>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            is_drawn: !is_json() && io::stderr().is_terminal(),
            begun: None,
        }
    }

    /// Whether there is a terminal to draw it on.
    pub(super) fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    pub(super) fn begin(&mut self, what: String) {
        self.begun = Some((what, Instant::now()));
        self.draw();
    }

    /// Tells how long it has taken by now.
    pub(super) fn draw(&self) {
        let Some((what, begun)) = self.begun.as_ref().filter(|_| self.is_drawn) else {
            return;
        };
        let seconds = match begun.elapsed().as_secs() {
            0 => String::new(),
            seconds => format!(" ({seconds} s)"),
        };
        self.write(&format!("{what}{seconds}"));
    }

    /// Makes way for something else on the terminal.
    pub(super) fn clear(&mut self) {
        if self.begun.take().is_some() && self.is_drawn {
            self.write("");
        }
    }

    fn write(&self, text: &str) {
        // There is nobody left to tell when even this cannot be written.
        let _ = io::stderr().write_all(format!("{CLEAR_LINE}{text}").as_bytes());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

/// How often the line tells how long something has taken.
pub(super) fn seconds() -> tokio::time::Interval {
    tokio::time::interval(Duration::from_secs(1))
}

/// Does work on VMs of a pool, and tells their stages meanwhile.
pub(super) async fn told<T>(mut stages: Receiver<Progress>, work: impl Future<Output = T>) -> T {
    let tell = async {
        let mut line = Line::new();
        let mut seconds = seconds();
        while line.is_drawn() {
            tokio::select! {
                stage = stages.recv() => match stage {
                    Ok(Progress { vm, stage, state: StageState::Started, .. }) => {
                        line.begin(format!("VM {vm}: {stage}"));
                    }
                    Ok(_) => line.clear(),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = seconds.tick() => line.draw(),
            }
        }
        drop(line);
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = work => done,
        never = tell => never,
    }
}
