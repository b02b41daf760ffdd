//! What can only be seen in a VM: one is made, looked into and removed.

use std::any::Any;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Backend as _, Command, LuaVm, PackageSite, VmId};

use super::{Check, Finding, Report, Told, after};
use crate::backend::{Origin, XcpngBackend, random_name};
use crate::config::XcpngConfig;
use crate::error::{Error, Result, chain};
use crate::first_contact::FirstContact;
use crate::making::deploy;
use crate::progress::{Progress, Stage, StageState};
use crate::settings::{Handover, Settings};
use crate::vm::XcpngVm;

/// How long a VM that has its address may take until it can be logged in to. Whoever examines a pool
/// waits for the answer; a server that is slower is as good as none.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says what there is for packages: the version of LuaRocks, a C compiler, and the headers of the
/// Lua version `$1`; files with keys that open the login besides `$2`; and a machine id, in the file `$3`, that was there before
/// this VM, which has just been made, had ever booted. A line for each that is there, begun by its name.
const LOOK: &str = r#"
version=$(luarocks --version 2>/dev/null | head -n 1) && [ -n "$version" ] && printf 'luarocks %s\n' "$version"
compiler=$(command -v cc || command -v gcc) && printf 'compiler %s\n' "$compiler"
for dir in /usr/include /usr/local/include; do
    for name in "lua$1" "lua-$1" "lua/$1" "lua${1%%.*}${1#*.}" lua .; do
        [ -f "$dir/$name/lua.h" ] || continue
        printf 'headers %s\n' "$dir/$name"
        break 2
    done
done
for file in /root/.ssh/authorized_keys "$HOME/.ssh/authorized_keys"; do
    [ -r "$file" ] || continue
    grep -v '^[[:space:]]*\(#\|$\)' "$file" | grep -q -v -F -e "$2" && printf 'keys %s\n' "$file"
done
booted=$(sed -n 's/^btime //p' /proc/stat 2>/dev/null)
written=$(stat -c %Y "$3" 2>/dev/null)
[ -s "$3" ] && [ -n "$booted" ] && [ -n "$written" ] && [ "$written" -lt "$booted" ] &&
    printf 'machine-id %s\n' "$(head -n 1 "$3")"
exit 0"#;

/// Makes a VM, looks into it and removes it, also when `stop` ends before.
pub(super) async fn look<F: FnMut(Told<'_>) + Send>(
    config: &XcpngConfig,
    settings: &Settings,
    mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    report: &mut Report<F>,
) {
    // What is wrong with it was told before.
    let Ok(mut patient) = Settings::new(config.clone()) else {
        return;
    };
    patient.login_timeout = patient.login_timeout.min(PATIENCE);
    let backend = XcpngBackend::from_settings(patient);
    report.begin(Check::Deploy);
    let made = tokio::select! {
        made = make(&backend) => Some(made),
        () = &mut stop => None,
    };
    match made {
        Some(Ok(vm)) => {
            report.add(Finding::good(
                Check::Deploy,
                "a VM could be made of the template",
            ));
            tokio::select! {
                () = start(&backend, &vm, settings, report) => {}
                () = &mut stop => {}
            }
            report.begin(Check::Cleanup);
            match vm.destroy().await {
                Ok(()) => report.add(Finding::good(Check::Cleanup, "the VM is gone again")),
                Err(error) => report.add(Finding::failed(
                    Check::Cleanup,
                    chain(&error),
                    "`bioxen gc` removes it",
                )),
            }
        }
        Some(Err(error)) => {
            report.add(Finding::of(Check::Deploy, &error));
            report.skip_after(Check::Deploy, Check::Deploy);
        }
        // What was begun is removed before the backend is closed.
        None => {}
    }
    if let Err(error) = backend.close().await {
        tracing::debug!(%error, "the session is left to the pool");
    }
}

async fn make(backend: &XcpngBackend) -> Result<Arc<dyn LuaVm>> {
    let id = VmId::new(format!("doctor-{}", random_name()));
    let id = id.map_err(|error| Error::Guest(Box::new(error)))?;
    let made = deploy(Arc::clone(backend.shared()), id, Origin::Template).await?;
    Ok(made)
}

/// Starts a VM, and tells how far it gets as soon as it is there.
async fn start<F: FnMut(Told<'_>) + Send>(
    backend: &XcpngBackend,
    vm: &Arc<dyn LuaVm>,
    settings: &Settings,
    report: &mut Report<F>,
) {
    let any: &dyn Any = &**vm;
    let Some(special) = any.downcast_ref::<XcpngVm>() else {
        return;
    };
    let mut told = Check::Deploy;
    let mut stages = backend.subscribe();
    let mut starting = pin!(special.try_start());
    let started = loop {
        tokio::select! {
            biased;
            Ok(Progress { stage, state, .. }) = stages.recv() => match (stage, state) {
                (Stage::Start, StageState::Started) => report.begin(Check::Boot),
                (Stage::Address, StageState::Started) => report.begin(Check::Address),
                (Stage::Login, StageState::Started) => report.begin(Check::Ssh),
                (Stage::Start, StageState::Finished(_)) => {
                    report.is_good_to(&mut told, Check::Boot, special, settings).await;
                }
                (Stage::Address, StageState::Finished(_)) => {
                    report.is_good_to(&mut told, Check::Address, special, settings).await;
                }
                _ => {}
            },
            started = &mut starting => break started,
        }
    };
    let failed = started.as_ref().err().map(first_in_vain);
    let last = match failed {
        None => Check::Lua,
        Some(failed) => before(failed),
    };
    report.is_good_to(&mut told, last, special, settings).await;
    match (started, failed) {
        (Err(error), Some(first)) => {
            let check = error.check();
            report.add(Finding::of(check, &error));
            let rest = std::iter::once(first).chain(after(first));
            for left_out in rest.filter(|one| *one != check && *one != Check::Cleanup) {
                report.add(Finding::skipped(left_out, check));
            }
        }
        _ => {
            report.begin(Check::Luarocks);
            packages(vm, special.contact(), report).await;
        }
    }
}

impl<F: FnMut(Told<'_>) + Send> Report<F> {
    /// Tells of all checks up to this one, behind the last that was told, that they are good.
    async fn is_good_to(
        &mut self,
        told: &mut Check,
        last: Check,
        vm: &XcpngVm,
        settings: &Settings,
    ) {
        for check in after(*told).take_while(|check| *check <= last) {
            self.add(Finding::good(check, good(check, vm, settings).await));
            *told = check;
        }
    }
}

/// The check that comes before one.
fn before(check: Check) -> Check {
    let earlier = Check::ALL.into_iter().take_while(|one| *one != check);
    earlier.last().unwrap_or(check)
}

/// What is found of a VM where a check of its start is good.
async fn good(check: Check, vm: &XcpngVm, settings: &Settings) -> String {
    let said = match check {
        Check::Boot => "it starts and keeps running",
        Check::GuestTools | Check::Address if settings.wish.fixed_address.is_some() => {
            "not asked, as its address is fixed"
        }
        Check::GuestTools => "they report",
        Check::Address => match vm.info().await.ok().and_then(|info| info.address) {
            Some(address) => return address.to_string(),
            None => "it has one",
        },
        Check::Ssh => return format!("{:?} can log in", settings.login.user),
        Check::CloudInit if vm.has_cloud_init() => "it ended well",
        Check::CloudInit => "not used by this template",
        Check::Lua => return settings.lua.clone(),
        _ => "it runs commands",
    };
    said.to_owned()
}

/// The first check of a VM that runs that an error keeps from being good. Its cause may be one that
/// was good before the VM was made.
fn first_in_vain(error: &Error) -> Check {
    let check = error.check();
    match error {
        _ if after(Check::Deploy).any(|later| later == check) => check,
        Error::NoAddress { .. } => Check::GuestTools,
        _ => Check::Boot,
    }
}

async fn packages<F: FnMut(Told<'_>) + Send>(
    vm: &Arc<dyn LuaVm>,
    contact: Option<&FirstContact>,
    report: &mut Report<F>,
) {
    let own = contact.and_then(FirstContact::public_key);
    let looked = async {
        let site = vm.package_site().await?;
        // Any text that is in no file, where the template's own keys are to be there.
        let own = own.unwrap_or("a key");
        let command =
            Command::new("sh").args(["-c", LOOK, "sh", &site.lua_version, own, "/etc/machine-id"]);
        let outcome = site.runner.run(command).await?;
        Ok::<_, bioxen_vm_core::Error>((site, outcome.stdout_text().into_owned()))
    };
    match looked.await {
        Ok((site, said)) => {
            for finding in of_packages(&site, &said) {
                report.add(finding);
            }
            if own.is_some() {
                report.add(of_keys(&said));
            }
            if let Some(finding) = of_machine_id(&said) {
                report.add(finding);
            }
        }
        Err(error) => {
            let remedy = "look at the VM's console and the log of its SSH server";
            report.add(Finding::failed(Check::Luarocks, chain(&error), remedy));
            report.add(Finding::skipped(Check::BuildTools, Check::Luarocks));
            report.add(Finding::skipped(Check::Identity, Check::Luarocks));
        }
    }
}

/// Who else can log in to all VMs of the template.
fn of_keys(said: &str) -> Finding {
    let files = said.lines().filter_map(|line| line.strip_prefix("keys "));
    let mut files: Vec<_> = files.collect();
    files.dedup();
    if files.is_empty() {
        return Finding::good(Check::Identity, "no keys but ours open the login");
    }
    Finding::warning(
        Check::Identity,
        format!(
            "keys of the template open all its VMs: {}",
            files.join(", ")
        ),
        "remove them in the template, unless they are meant to",
    )
}

/// Whether all VMs of the template are one machine to others.
fn of_machine_id(said: &str) -> Option<Finding> {
    let id = said
        .lines()
        .find_map(|line| line.strip_prefix("machine-id "))?;
    Some(Finding::warning(
        Check::Identity,
        format!("the template's own machine id is that of all its VMs: /etc/machine-id is {id}"),
        "empty it in the template (`truncate -s 0 /etc/machine-id`): DHCP servers, logs and clusters tell \
         machines apart by it",
    ))
}

fn of_packages(site: &PackageSite, said: &str) -> [Finding; 2] {
    let value = |name: &str| {
        said.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let luarocks = match value("luarocks") {
        Some(version) => Finding::good(Check::Luarocks, version),
        None => Finding::warning(
            Check::Luarocks,
            "it is not installed, so no packages can be",
            "install luarocks in the template",
        ),
    };
    let version = &site.lua_version;
    let missing = match (value("compiler"), value("headers")) {
        (Some(compiler), Some(headers)) => {
            let found = format!("{compiler} and the headers in {headers}");
            return [luarocks, Finding::good(Check::BuildTools, found)];
        }
        (None, Some(_)) => "there is no C compiler".to_owned(),
        (Some(_), None) => format!("the headers of Lua {version} are missing"),
        (None, None) => format!("a C compiler and the headers of Lua {version} are missing"),
    };
    let tools = Finding::warning(
        Check::BuildTools,
        format!("{missing}, so packages with C code cannot be built"),
        format!(
            "install them in the template (Debian: build-essential liblua{version}-dev, Alpine: \
             build-base lua{version}-dev, Fedora: gcc lua-devel)"
        ),
    );
    [luarocks, tools]
}

impl XcpngVm {
    /// Whether cloud-init gives it its keys.
    fn has_cloud_init(&self) -> bool {
        self.contact().and_then(FirstContact::handover) == Some(Handover::Drive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bioxen_vm_core::Runner as _;
    use bioxen_vm_core::local::LocalRunner;

    use crate::doctor::Verdict;

    #[tokio::test]
    async fn a_machine_id_from_before_the_boot_is_that_of_the_template() {
        let dir = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let now = std::time::SystemTime::now();
        for (name, content, written, is_shared) in [
            ("old", "0123\n", old, true),
            ("new", "0123\n", now, false),
            ("empty", "", old, false),
        ] {
            let path = dir.path().join(name);
            std::fs::write(&path, content).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(written).unwrap();
            let path = path.to_str().unwrap();
            let look = Command::new("sh").args(["-c", LOOK, "sh", "5.4", "a key", path]);
            let outcome = LocalRunner::new().run(look).await.unwrap();
            let found = of_machine_id(&outcome.stdout_text());
            assert_eq!(found.is_some(), is_shared, "{name}: {outcome:?}");
        }
        assert_eq!(of_machine_id("luarocks 3\n"), None);
    }

    #[test]
    fn what_packages_need_is_told_apart() {
        let site = PackageSite::new(Arc::new(LocalRunner::new()), "5.4", "/t");
        let all =
            "luarocks /usr/bin/luarocks 3.8.0\ncompiler /usr/bin/cc\nheaders /usr/include/lua5.4\n";
        for (said, verdicts, words) in [
            (all, [Verdict::Good, Verdict::Good], "/usr/include/lua5.4"),
            (
                "compiler /usr/bin/cc\n",
                [Verdict::Warning, Verdict::Warning],
                "liblua5.4-dev",
            ),
        ] {
            let findings = of_packages(&site, said);
            assert_eq!(findings.each_ref().map(|finding| finding.verdict), verdicts);
            assert!(findings[1].to_string().contains(words), "{findings:?}");
        }
        assert_eq!(of_keys(all).verdict, Verdict::Good);
        assert_eq!(of_machine_id(all), None);
        let shared = of_machine_id("machine-id 0123\n").unwrap();
        assert!(
            shared.found.ends_with("/etc/machine-id is 0123"),
            "{shared}"
        );
        let keys = "keys /root/.ssh/authorized_keys\n";
        let found = of_keys(&format!("{keys}{keys}"));
        assert_eq!(found.verdict, Verdict::Warning);
        assert!(
            found.found.ends_with("VMs: /root/.ssh/authorized_keys"),
            "{found}"
        );
    }
}
