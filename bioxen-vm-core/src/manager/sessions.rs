//! The sessions of a manager's VMs, by name.

use std::sync::MutexGuard;

use super::observe::Happening;
use super::{VmManager, lock};
use crate::{Error, ErrorKind, Result, Session, SessionOptions, SessionStatus, VmId};

impl VmManager {
    /// Starts a session in a VM, and keeps it under its name until it is over.
    ///
    /// # Errors
    /// Fails with [`ErrorKind::AlreadyExists`] when the VM has a session of that name, and as
    /// [`vm`](Self::vm) and [`LuaVm::open_session`](crate::LuaVm::open_session).
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    pub async fn open_session(&self, id: &str, options: SessionOptions) -> Result<Session> {
        let vm = self.vm(id)?;
        let taken = |name: &str| {
            let message =
                format!("a session {name:?} exists already; close it or choose another name");
            Error::new(ErrorKind::AlreadyExists, message)
                .with_operation("open a session")
                .with_vm(id)
        };
        let name = options.name.clone();
        if self.session(id, &name).is_some() {
            return Err(taken(&name));
        }
        let session = vm.open_session(options).await?;
        let mut sessions = self.living_sessions();
        // Another one may have been opened meanwhile.
        if find(&sessions, id, &name).is_some() {
            return Err(taken(&name));
        }
        sessions.push((vm.id().clone(), session.clone()));
        self.observed.tell(vm.id(), Happening::SessionOpened(name));
        Ok(session)
    }

    /// The session of this name in this VM, if there is one that is not over.
    #[must_use]
    pub fn session(&self, id: &str, name: &str) -> Option<Session> {
        find(&self.living_sessions(), id, name)
    }

    /// All sessions that are not over, with their VMs.
    #[must_use]
    pub fn sessions(&self) -> Vec<(VmId, Session)> {
        self.living_sessions().clone()
    }

    pub(super) fn living_sessions(&self) -> MutexGuard<'_, Vec<(VmId, Session)>> {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|(_, session)| session.status() != SessionStatus::Ended);
        sessions
    }
}

fn find(sessions: &[(VmId, Session)], id: &str, name: &str) -> Option<Session> {
    let mut all = sessions.iter();
    all.find(|(vm, session)| vm.as_str() == id && session.name() == name)
        .map(|(_, session)| session.clone())
}
