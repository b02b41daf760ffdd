//! What is done in the VM that becomes a template.

use std::path::Path;
use std::time::Duration;

use bioxen_vm_core::{Command, Outcome, Runner, Status};

use crate::error::{Error, Result};
use crate::vm::XcpngVm;

const INSTALL: &str = include_str!("install.sh");
const TOOLS: &str = include_str!("tools.sh");
const CLEAN: &str = include_str!("clean.sh");

/// How long a package manager may take, which fetches a compiler over whatever network there is.
const LIMIT: Duration = Duration::from_secs(30 * 60);

/// What was done in a VM.
#[derive(Debug)]
pub(super) struct Filled {
    pub(super) installed: Vec<String>,
    pub(super) is_root: bool,
    /// Whether something in it tells the pool its address.
    pub(super) has_tools: bool,
}

/// Starts a VM and installs what is missing in it.
pub(super) async fn fill(vm: &XcpngVm) -> Result<Filled> {
    match vm.try_start().await {
        // It is reached in another way until it has one.
        Ok(()) | Err(Error::NoLua { .. }) => {}
        Err(error) => return Err(error),
    }
    let reached = vm.reach().await?;
    let run = Root::find(&*reached.runner, vm).await?;
    let outcome = run.script(INSTALL).await?;
    let said = outcome.stdout_text();
    let about = |word: &str| -> Vec<String> {
        let lines = said.lines();
        lines
            .filter_map(|line| Some(line.strip_prefix(word)?.strip_prefix(' ')?.to_owned()))
            .collect()
    };
    if !outcome.success() {
        let said = about("said").join(" / ");
        return Err(Error::Install {
            missing: about("missing").join(", "),
            manager: about("manager").concat(),
            said: if said.is_empty() {
                format!("{} {}", outcome.status, outcome.stderr_text().trim())
            } else {
                said
            },
        });
    }
    let is_root = run.sudo.is_empty();
    let mut installed = about("installed");
    let mut has_tools = report(vm).await?;
    if !has_tools {
        let outcome = run.script(TOOLS).await?;
        has_tools = outcome.success();
        if outcome.stdout_text().trim() == "installed" {
            installed.push("guest tools".to_owned());
        }
    }
    reached.close().await;
    vm.try_start().await?;
    Ok(Filled {
        installed,
        is_root,
        has_tools,
    })
}

/// Whether guest tools have ever told the pool of this VM.
async fn report(vm: &XcpngVm) -> Result<bool> {
    let client = vm.shared().client().await?;
    let report = client.vm().get_guest_metrics(vm.reference()).await;
    let report = report.map_err(Error::pool("tell whether the VM has guest tools"))?;
    Ok(!report.is_null())
}

/// Removes what copies of the system would share, and gives what could not be removed.
pub(super) async fn clean(vm: &XcpngVm) -> Result<Vec<String>> {
    let reached = vm.reach().await?;
    let outcome = Root::find(&*reached.runner, vm)
        .await?
        .script(CLEAN)
        .await?;
    reached.close().await;
    if !outcome.success() {
        return Err(Error::Clean {
            said: format!("{} {}", outcome.status, outcome.stderr_text().trim()),
        });
    }
    let said = outcome.stdout_text();
    let left = said.lines().filter_map(|line| line.strip_prefix("left "));
    Ok(left.map(str::to_owned).collect())
}

/// Runs scripts as root.
struct Root<'r> {
    runner: &'r dyn Runner,
    /// What comes before a command.
    sudo: &'static [&'static str],
}

impl<'r> Root<'r> {
    async fn find(runner: &'r dyn Runner, vm: &XcpngVm) -> Result<Self> {
        const WHO: &str = "cat /proc/sys/kernel/random/boot_id; readlink /proc/self/ns/mnt
            [ \"$(id -u)\" = 0 ] && exit 0; sudo -n true 2>/dev/null && exit 1; exit 2";
        let command = Command::new("sh").args(["-c", WHO]);
        let outcome = runner.run(command).await.map_err(failed)?;
        if is_this_machine(&outcome.stdout_text()).await {
            return Err(Error::ThisMachine);
        }
        let sudo: &[_] = match outcome.status {
            Status::Exited(0) => &[],
            Status::Exited(1) => &["sudo", "-n"],
            _ => {
                return Err(Error::NotRoot {
                    user: vm.login_user().to_owned(),
                });
            }
        };
        Ok(Self { runner, sudo })
    }

    async fn script(&self, text: &str) -> Result<Outcome> {
        let words = self.sudo.iter().copied().chain(["sh", "-c", text]);
        let mut words = words.map(str::to_owned);
        let command = Command::new(words.next().unwrap_or_default())
            .args(words)
            .with_timeout(LIMIT);
        self.runner.run(command).await.map_err(failed)
    }
}

/// Whether a kernel that was started as this one was and the files that it shows are ours: then what is
/// done to the VM's system is done to ours.
async fn is_this_machine(told: &str) -> bool {
    let kernel = tokio::fs::read_to_string("/proc/sys/kernel/random/boot_id").await;
    let files = tokio::fs::read_link("/proc/self/ns/mnt").await;
    let mut told = told.lines();
    matches!((kernel, files), (Ok(kernel), Ok(files))
        if told.next() == Some(kernel.trim()) && told.next().map(Path::new) == Some(&files))
}

fn failed(error: bioxen_vm_core::Error) -> Error {
    Error::Guest(Box::new(error))
}
