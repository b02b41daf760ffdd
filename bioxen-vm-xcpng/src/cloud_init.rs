//! Waits for the end of cloud-init in a VM: an open port says little about whether the VM is ready.

use std::time::Duration;

use bioxen_vm_core::{Command, Runner, Status};

use crate::error::{Error, Result};

/// Exits with 0 when cloud-init has ended well, or, after something that it recovered from, as newer
/// versions tell with a 2; and where a NoCloud reader without such a program did the work.
const WAIT: &str = "\
command -v cloud-init >/dev/null 2>&1 || exit 0
said=$(cloud-init status --wait --long 2>&1)
code=$?
[ $code != 0 ] && [ $code != 2 ] || exit 0
printf '%s\\n' \"$said\"
tail -n 5 /var/log/cloud-init-output.log 2>/dev/null
exit 1";

/// Waits until cloud-init in the VM has done its work.
pub(crate) async fn wait(runner: &dyn Runner, limit: Duration) -> Result<()> {
    let command = Command::new("sh").args(["-c", WAIT]).with_timeout(limit);
    let outcome = runner
        .run(command)
        .await
        .map_err(|error| Error::Guest(Box::new(error)))?;
    if outcome.success() {
        return Ok(());
    }
    let said = match outcome.status {
        Status::TimedOut => format!("it has not ended after {} s", limit.as_secs()),
        _ => one_line(&outcome.stdout_text()),
    };
    Err(Error::CloudInit { said })
}

fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join(" / ")
}
