//! Tells what keeps VMs from being made and used, and what to do about it.

mod finding;
mod guest;
mod hosts;
mod pool;

use std::future::Future;
use std::pin::pin;

use bioxen_vm_core::BackendConfig as _;
pub use finding::{Check, Finding, Verdict};

use crate::config::XcpngConfig;
use crate::settings::Settings;

/// Looks at everything that a VM on a pool depends on, as far as it can be looked at.
///
/// Each check runs as far as it can: a pool with a wrong network still has its template, storage and
/// memory looked at. The last checks need a VM; one is made from the template, and removed again.
///
/// ```no_run
/// use bioxen_vm_xcpng::{Doctor, Verdict, XcpngConfig};
///
/// # async fn example(config: XcpngConfig) {
/// let findings = Doctor::new(config).without_vm().examine().await;
/// for finding in findings.iter().filter(|finding| finding.verdict == Verdict::Failed) {
///     println!("{finding}");
/// }
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Doctor {
    config: XcpngConfig,
    makes_vm: bool,
}

/// What a doctor tells while it looks.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Told<'f> {
    /// It looks at this now. Some checks take minutes, as the start of a VM does.
    Begun(Check),
    /// It has found this.
    Found(&'f Finding),
}

impl Doctor {
    /// Prepares an examination with this configuration, however wrong it is. It does no I/O.
    #[must_use]
    pub fn new(config: XcpngConfig) -> Self {
        Self {
            config,
            makes_vm: true,
        }
    }

    /// Makes no VM: what can only be seen in one is skipped, and the pool is only read.
    #[must_use]
    pub fn without_vm(mut self) -> Self {
        self.makes_vm = false;
        self
    }

    /// Looks at everything, and gives what was found in the order of [`Check::ALL`]. A check may
    /// have several findings, of several hosts for example.
    ///
    /// # Cancel safety
    /// A VM that was made for looking is left behind when the future is dropped: see
    /// [`examine_until`](Self::examine_until).
    pub async fn examine(self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let tell = |told: Told<'_>| {
            if let Told::Found(finding) = told {
                findings.push(finding.clone());
            }
        };
        self.examine_until(std::future::pending(), tell).await;
        findings
    }

    /// As [`examine`](Self::examine), telling of each check when it begins and of each finding as soon as it is there. When `stop` ends,
    /// nothing more is looked at, and a VM that was made is removed before this returns.
    pub async fn examine_until(
        self,
        stop: impl Future<Output = ()> + Send,
        tell: impl FnMut(Told<'_>) + Send,
    ) {
        let mut report = Report {
            tell,
            failed: Vec::new(),
        };
        let mut stop = pin!(stop);
        let problems = self.config.contradictions();
        if !problems.is_empty() {
            for problem in problems {
                let remedy = "correct the configuration; docs/xcpng-configuration.md has all keys";
                report.add(Finding::failed(Check::Config, problem.message, remedy));
            }
            report.skip_after(Check::Config, Check::Config);
            return;
        }
        let Ok(settings) = Settings::new(self.config.clone()) else {
            return;
        };
        report.add(Finding::good(Check::Config, "nothing contradicts itself"));
        let client = tokio::select! {
            client = hosts::log_in(&settings, &mut report) => client,
            () = &mut stop => return,
        };
        let Some(client) = client else {
            report.skip_after(Check::Login, Check::Login);
            return;
        };
        let looked = tokio::select! {
            () = pool::look(&client, &settings, &mut report) => true,
            () = &mut stop => false,
        };
        if let Err(error) = client.close().await {
            tracing::debug!(%error, "the session is left to the pool");
        }
        if !looked {
            return;
        }
        let needed = [Check::Role, Check::Template, Check::Storage, Check::Memory];
        let missing = needed
            .into_iter()
            .chain([Check::Network])
            .find(|check| report.failed.contains(check));
        match missing {
            Some(missing) => report.skip_after(Check::Network, missing),
            None if self.makes_vm => guest::look(&self.config, &settings, stop, &mut report).await,
            None => {
                for check in after(Check::Network) {
                    let found = "not looked at, as no VM was to be made".to_owned();
                    report.add(Finding {
                        found,
                        ..Finding::skipped(check, check)
                    });
                }
            }
        }
    }
}

/// The checks behind one.
fn after(check: Check) -> impl Iterator<Item = Check> {
    let is_other = move |other: &Check| *other != check;
    Check::ALL.into_iter().skip_while(is_other).skip(1)
}

/// What was found so far.
struct Report<F> {
    tell: F,
    failed: Vec<Check>,
}

impl<F: FnMut(Told<'_>) + Send> Report<F> {
    fn add(&mut self, finding: Finding) {
        if finding.verdict == Verdict::Failed {
            self.failed.push(finding.check);
        }
        (self.tell)(Told::Found(&finding));
    }

    /// Tells that a check begins.
    fn begin(&mut self, check: Check) {
        (self.tell)(Told::Begun(check));
    }

    /// Tells that all checks behind one were left out.
    fn skip_after(&mut self, last: Check, needed: Check) {
        for check in after(last) {
            self.add(Finding::skipped(check, needed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_explained() {
        let page = include_str!("../../docs/troubleshooting.md");
        for check in Check::ALL {
            assert!(page.contains(&format!("| `{check}` |")), "{check}");
            assert_eq!(serde_json::to_value(check).unwrap(), check.code());
        }
    }
}
