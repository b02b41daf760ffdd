//! How a simulator behaves.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::guest::{GuestOptions, STATE_PARENTS};
use crate::model::UserSpec;
use crate::report::GuestReport;
use crate::tls::Certificate;

/// What stands behind the VMs of templates with a guest.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum GuestMode {
    /// Real guests that are reached over SSH, run as the options say. The default.
    #[default]
    Real,
    /// Real guests with options of their own.
    RealWith(GuestOptions),
    /// Records only: VMs report an address at which nobody answers.
    Simulated,
}

/// How a simulator behaves. Every default is meant for tests in the same process.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SimOptions {
    /// The password of `root`. By default a fresh one that nobody can guess.
    pub password: Option<SecretString>,
    /// Further users.
    pub users: Vec<UserSpec>,
    /// What stands behind VMs.
    pub guests: GuestMode,
    /// The directory in which a private one is made for the bytes that clients write to disks, once
    /// there are any. By default the one for the files of guests.
    pub state_dir: Option<PathBuf>,
    /// The certificate that servers show. By default a fresh one, as a new host has it.
    pub certificate: Certificate,
    /// How long a wrong password waits for its answer. A real host takes about 2 seconds; the
    /// default is none.
    pub login_delay: Duration,
    /// How long each operation on a domain, a disk, a device, an SR, a host or the pool takes at
    /// least, and is shown in `current_operations`. A real host takes a second or more; the default
    /// is none.
    pub latency: Duration,
    /// How long after its boot a guest's agent reports. A real one takes seconds; the default is
    /// none.
    pub agent_delay: Duration,
    /// What the agents in uploaded images report. By default none is in them, as in the images
    /// that distributions publish.
    pub image_report: GuestReport,
    /// How long `event.from` gathers changes before it answers: 50 ms, as with a real host.
    pub event_delay: Duration,
    /// Whether the pool has Dynamic Memory Control, as XCP-ng has. Without it the limits of a
    /// VM's memory have to be equal.
    pub dynamic_memory: bool,
}

impl Default for SimOptions {
    fn default() -> Self {
        SimOptions {
            password: None,
            users: Vec::new(),
            guests: GuestMode::default(),
            state_dir: None,
            certificate: Certificate::default(),
            login_delay: Duration::ZERO,
            latency: Duration::ZERO,
            agent_delay: Duration::ZERO,
            image_report: GuestReport::NoTools,
            event_delay: Duration::from_millis(50),
            dynamic_memory: true,
        }
    }
}

impl SimOptions {
    /// Gives `root` this password.
    #[must_use]
    pub fn with_password(mut self, password: SecretString) -> Self {
        self.password = Some(password);
        self
    }

    /// Lets another user log in, with a role of the datamodel.
    #[must_use]
    pub fn with_user(
        mut self,
        name: impl Into<String>,
        password: SecretString,
        role: impl Into<String>,
    ) -> Self {
        self.users.push(UserSpec::new(name, password).role(role));
        self
    }

    /// Chooses what stands behind VMs.
    #[must_use]
    pub fn with_guests(mut self, guests: GuestMode) -> Self {
        self.guests = guests;
        self
    }

    /// Keeps the bytes of disks in this directory.
    #[must_use]
    pub fn with_state_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.state_dir = Some(path.into());
        self
    }

    /// Lets servers show this certificate.
    #[must_use]
    pub fn with_certificate(mut self, certificate: Certificate) -> Self {
        self.certificate = certificate;
        self
    }

    /// Lets a wrong password wait this long for its answer.
    #[must_use]
    pub fn with_login_delay(mut self, delay: Duration) -> Self {
        self.login_delay = delay;
        self
    }

    /// Lets every operation on a domain, a disk and so on take at least this long.
    #[must_use]
    pub fn with_latency(mut self, latency: Duration) -> Self {
        self.latency = latency;
        self
    }

    /// Lets agents report this long after the boot of their guests.
    #[must_use]
    pub fn with_agent_delay(mut self, delay: Duration) -> Self {
        self.agent_delay = delay;
        self
    }

    /// Lets the agents in uploaded images report this.
    #[must_use]
    pub fn with_image_report(mut self, report: GuestReport) -> Self {
        self.image_report = report;
        self
    }

    /// Lets `event.from` gather changes for this long.
    #[must_use]
    pub fn with_event_delay(mut self, delay: Duration) -> Self {
        self.event_delay = delay;
        self
    }

    /// Takes Dynamic Memory Control from the pool, or gives it back.
    #[must_use]
    pub fn with_dynamic_memory(mut self, enabled: bool) -> Self {
        self.dynamic_memory = enabled;
        self
    }

    /// Where the bytes of disks may be kept, the best place first.
    pub(super) fn places(&self) -> Vec<PathBuf> {
        let of_guests = match &self.guests {
            GuestMode::RealWith(guests) => guests.state_dir.clone(),
            _ => None,
        };
        match self.state_dir.clone().or(of_guests) {
            Some(path) => vec![path],
            None => STATE_PARENTS.map(PathBuf::from).to_vec(),
        }
    }
}
