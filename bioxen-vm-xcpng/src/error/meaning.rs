//! What an error means to its caller: the kind that a program can act on, and the check of the doctor
//! that finds it.

use std::error::Error as StdError;

use bioxen_vm_core::ErrorKind;
use xapi_client::ErrorCode;

use super::{Error, STARTING};
use crate::doctor::Check;

impl Error {
    /// What a caller can do about it.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::PasswordFile { .. }
            | Self::PasswordCommand { .. }
            | Self::CaFile { .. }
            | Self::Ambiguous { .. }
            | Self::Diskless { .. }
            | Self::NoDrive { .. }
            | Self::Ledger(_)
            | Self::MemoryTooSmall { .. }
            | Self::DiskTooSmall { .. }
            | Self::NoStateDir
            | Self::SnapshotName { .. }
            | Self::SameAddress
            | Self::TemplateKeys
            | Self::NotRoot { .. }
            | Self::ThisMachine
            | Self::Image { .. }
            | Self::ImageNetwork
            | Self::NoDefaultStorage
            | Self::NoInterface { .. }
            | Self::Topology { .. } => ErrorKind::Config,
            Self::TemplateExists { .. } | Self::IdTaken => ErrorKind::AlreadyExists,
            Self::BuiltIn { .. } | Self::ForeignTemplate { .. } => ErrorKind::Denied,
            Self::Unreachable { .. } | Self::NoTls { .. } => ErrorKind::Unavailable,
            Self::SnapshotExists { .. } => ErrorKind::AlreadyExists,
            Self::NoPlace { .. } => ErrorKind::Exhausted,
            Self::Untrusted { .. } | Self::WrongPassword { .. } => ErrorKind::Denied,
            Self::NotFound { .. } | Self::NoLua { .. } | Self::NoProgram { .. } | Self::Gone => {
                ErrorKind::NotFound
            }
            Self::Login { source, .. }
            | Self::Pool { source, .. }
            | Self::LeftBehind { source, .. } => kind_of_call(source),
            Self::Cancelled => ErrorKind::Cancelled,
            Self::NoAddress { .. } => ErrorKind::Timeout,
            Self::State { .. } | Self::NoWayIn | Self::Closed | Self::Ended { .. } => {
                ErrorKind::InvalidState
            }
            Self::NoShell { .. } => ErrorKind::Config,
            Self::ConfigDrive(_)
            | Self::CloudInit { .. }
            | Self::Install { .. }
            | Self::Clean { .. } => ErrorKind::Internal,
            Self::Ssh { source, .. } | Self::Keys(source) => source.kind(),
            Self::Guest(error) => error.kind(),
        }
    }

    /// The check of the [`Doctor`](crate::Doctor) that finds this.
    #[must_use]
    pub fn check(&self) -> Check {
        match self {
            Self::PasswordFile { .. } | Self::PasswordCommand { .. } => Check::Password,
            Self::CaFile { .. } | Self::Untrusted { .. } | Self::NoTls { .. } => Check::Tls,
            Self::Unreachable { .. } => Check::Tcp,
            Self::WrongPassword { .. } | Self::Login { .. } => Check::Login,
            Self::NotFound { what, .. } | Self::Ambiguous { what, .. } => match *what {
                "network" => Check::Network,
                "storage repository" => Check::Storage,
                "host" => Check::Memory,
                _ => Check::Template,
            },
            Self::Diskless { .. }
            | Self::NoDrive { .. }
            | Self::MemoryTooSmall { .. }
            | Self::DiskTooSmall { .. }
            | Self::Topology { .. } => Check::Template,
            Self::Ledger(_) | Self::NoStateDir | Self::SameAddress | Self::TemplateKeys => {
                Check::Config
            }
            Self::NoPlace { .. } => Check::Boot,
            Self::NoWayIn => Check::Ssh,
            Self::TemplateExists { .. }
            | Self::IdTaken
            | Self::BuiltIn { .. }
            | Self::ForeignTemplate { .. }
            | Self::ThisMachine
            | Self::Image { .. } => Check::Template,
            Self::NoDefaultStorage => Check::Storage,
            Self::ImageNetwork | Self::NoInterface { .. } => Check::Network,
            Self::Install { .. } | Self::Clean { .. } => Check::BuildTools,
            Self::Ended { .. } | Self::Gone | Self::State { .. } => Check::Boot,
            Self::NoAddress { why, .. } => why.check(),
            Self::Ssh { .. } => Check::Ssh,
            Self::CloudInit { .. } => Check::CloudInit,
            Self::NoShell { .. } | Self::NotRoot { .. } | Self::Guest(_) => Check::Shell,
            Self::NoLua { .. } | Self::NoProgram { .. } => Check::Lua,
            Self::LeftBehind { .. } => Check::Cleanup,
            Self::Pool { source, .. } if kind_of_call(source) == ErrorKind::Denied => Check::Role,
            Self::Pool { doing, .. } if *doing == STARTING => Check::Boot,
            Self::Pool { .. } => Check::Deploy,
            Self::Cancelled
            | Self::Closed
            | Self::Keys(_)
            | Self::ConfigDrive(_)
            | Self::SnapshotName { .. }
            | Self::SnapshotExists { .. } => Check::Deploy,
        }
    }
}

fn kind_of_call(error: &xapi_client::Error) -> ErrorKind {
    use xapi_client::Error as E;
    match error {
        E::Connect { .. } | E::Transport { .. } | E::UnknownOutcome { .. } | E::TaskGone { .. } => {
            ErrorKind::Unavailable
        }
        E::Untrusted { .. } => ErrorKind::Denied,
        E::Timeout { .. } => ErrorKind::Timeout,
        E::Config(_) | E::TooLarge { .. } => ErrorKind::Config,
        E::Api(failure) => match &failure.code {
            ErrorCode::RbacPermissionDenied | ErrorCode::SessionAuthenticationFailed => {
                ErrorKind::Denied
            }
            ErrorCode::HandleInvalid | ErrorCode::UuidInvalid => ErrorKind::NotFound,
            ErrorCode::VmBadPowerState | ErrorCode::OperationNotAllowed => ErrorKind::InvalidState,
            ErrorCode::HostNotEnoughFreeMemory | ErrorCode::SrFull => ErrorKind::Exhausted,
            ErrorCode::Unrecognized(code) if code.starts_with("SR_BACKEND_FAILURE") => {
                ErrorKind::Exhausted
            }
            ErrorCode::TaskCancelled => ErrorKind::Cancelled,
            _ if failure.is_retryable() => ErrorKind::Unavailable,
            _ => ErrorKind::Internal,
        },
        _ => ErrorKind::Internal,
    }
}

impl From<Error> for bioxen_vm_core::Error {
    /// Takes over the message, and what caused it as the source.
    fn from(error: Error) -> Self {
        let (kind, message) = (error.kind(), error.to_string());
        let source: Option<Box<dyn StdError + Send + Sync>> = match error {
            Error::Guest(error) => return *error,
            Error::PasswordFile { source, .. }
            | Error::CaFile { source, .. }
            | Error::ConfigDrive(source)
            | Error::Ledger(source) => Some(Box::new(source)),
            Error::Unreachable { source, .. }
            | Error::NoTls { source, .. }
            | Error::Untrusted { source, .. } => Some(source),
            Error::Login { source, .. }
            | Error::Pool { source, .. }
            | Error::LeftBehind { source, .. } => Some(source),
            Error::Ssh { source, .. } | Error::Keys(source) => Some(source),
            Error::NoPlace {
                source: Some(source),
                ..
            } => Some(source),
            _ => None,
        };
        let error = Self::new(kind, message);
        match source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}
