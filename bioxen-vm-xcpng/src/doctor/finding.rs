use std::fmt;

use serde::Serialize;

use crate::error::{Error, chain};

/// What the doctor looks at, in the order in which a deployment meets it. Each has a code that stays the same: `docs/troubleshooting.md` of the
/// project explains them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// Whether the configuration contradicts itself.
    Config,
    /// Whether the password can be had.
    Password,
    /// Whether the name of a host leads to an address.
    Dns,
    /// Whether a host listens at its port.
    Tcp,
    /// Whether a host proves who it is.
    Tls,
    /// Whether it lets us in.
    Login,
    /// Whether we may do there what a deployment does.
    Role,
    /// Whether it speaks a version of the API that has been tried.
    ApiVersion,
    /// Whether the template is there, and one that VMs can boot from.
    Template,
    /// Whether there is room for the disks of a VM.
    Storage,
    /// Whether a host has room for the memory of a VM, and can have it.
    Memory,
    /// Whether the networks are there and connected.
    Network,
    /// Whether a VM can be made of the template.
    Deploy,
    /// Whether it starts, and keeps running.
    Boot,
    /// Whether its guest tools report.
    GuestTools,
    /// Whether it gets an address.
    Address,
    /// Whether it can be logged in to.
    Ssh,
    /// Whether cloud-init in it ends well.
    CloudInit,
    /// Whether the user who logs in has a shell that runs commands.
    Shell,
    /// Whether it has a Lua interpreter.
    Lua,
    /// Whether it has LuaRocks.
    Luarocks,
    /// Whether rocks with C code can be built in it.
    BuildTools,
    /// Whether the template brings keys along that let others in.
    Identity,
    /// Whether all that was made for looking is gone again.
    Cleanup,
}

impl Check {
    /// All of them, in the order in which a deployment meets them.
    pub const ALL: [Self; 24] = [
        Self::Config,
        Self::Password,
        Self::Dns,
        Self::Tcp,
        Self::Tls,
        Self::Login,
        Self::Role,
        Self::ApiVersion,
        Self::Template,
        Self::Storage,
        Self::Memory,
        Self::Network,
        Self::Deploy,
        Self::Boot,
        Self::GuestTools,
        Self::Address,
        Self::Ssh,
        Self::CloudInit,
        Self::Shell,
        Self::Lua,
        Self::Luarocks,
        Self::BuildTools,
        Self::Identity,
        Self::Cleanup,
    ];

    /// Its code: `api-version` for example.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Password => "password",
            Self::Dns => "dns",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Role => "role",
            Self::ApiVersion => "api-version",
            Self::Template => "template",
            Self::Storage => "storage",
            Self::Memory => "memory",
            Self::Network => "network",
            Self::Deploy => "deploy",
            Self::Boot => "boot",
            Self::GuestTools => "guest-tools",
            Self::Address => "address",
            Self::Ssh => "ssh",
            Self::CloudInit => "cloud-init",
            Self::Shell => "shell",
            Self::Lua => "lua",
            Self::Luarocks => "luarocks",
            Self::BuildTools => "build-tools",
            Self::Identity => "identity",
            Self::Cleanup => "cleanup",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// As it has to be.
    Good,
    /// VMs can be made, but something will be missing or goes wrong under some circumstances.
    Warning,
    /// No VM can be made or used.
    Failed,
    /// It could not be looked at, because of something that failed before.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// What a check found. `Display` is one line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// What was looked at; its code in JSON.
    #[serde(rename = "code")]
    pub check: Check,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, unless it is good.
    pub remedy: Option<String>,
}

impl Finding {
    /// Describes what a check found.
    #[must_use]
    pub fn good(check: Check, found: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Good,
            found: found.into(),
            remedy: None,
        }
    }

    /// Describes what a check found.
    #[must_use]
    pub fn warning(check: Check, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Warning,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }

    /// Describes what a check found.
    #[must_use]
    pub fn failed(check: Check, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failed,
            ..Self::warning(check, found, remedy)
        }
    }

    /// Says that a check was left out, as what it needs had failed.
    #[must_use]
    pub fn skipped(check: Check, needed: Check) -> Self {
        Self {
            check,
            verdict: Verdict::Skipped,
            found: format!("not looked at, as it needs {needed}"),
            remedy: None,
        }
    }

    /// The finding that an error is.
    pub(crate) fn of(check: Check, error: &Error) -> Self {
        let (found, remedy) = error.parts();
        let causes = chain(error).split_off(error.to_string().len());
        Self::failed(check, format!("{found}{causes}"), remedy)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            check,
            verdict,
            found,
            remedy,
        } = self;
        write!(f, "{verdict:<8} {check}: {found}")?;
        match remedy {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}
