use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_basic::{BasicBackend, BasicConfig, BasicVm};
use bioxen_vm_core::{LuaVm, VmFactory, VmId, VmManager};
use tempfile::TempDir;

/// A running VM in a base directory of its own.
pub(crate) struct Lab {
    pub(crate) manager: Arc<VmManager>,
    pub(crate) vm: Arc<dyn LuaVm>,
    pub(crate) base: TempDir,
}

impl Lab {
    pub(crate) async fn new(config: BasicConfig) -> Self {
        Self::managed(Arc::new(manager()), "lab", config).await
    }

    /// One that is made by a manager.
    pub(crate) async fn managed(manager: Arc<VmManager>, id: &str, config: BasicConfig) -> Self {
        let base = tempfile::tempdir().unwrap();
        let config = serde_json::to_value(config.with_directory(base.path())).unwrap();
        let vm = manager.create_vm(id, "basic", config).await.unwrap();
        Self { manager, vm, base }
    }

    pub(crate) async fn built_in() -> Self {
        Self::new(BasicConfig::default()).await
    }

    /// One with the built-in Lua, and one with an interpreter of this machine.
    pub(crate) async fn both() -> [Self; 2] {
        Self::both_with(BasicConfig::default()).await
    }

    /// These, and one whose programs are threads of this process.
    pub(crate) async fn all() -> Vec<Self> {
        let mut labs = Vec::from(Self::both().await);
        labs.push(Self::in_process().await);
        labs
    }

    /// One whose programs are threads of this process.
    pub(crate) async fn in_process() -> Self {
        Self::new(BasicConfig::default().with_in_process(true)).await
    }

    /// The same, whose programs may start others.
    pub(crate) async fn both_with_processes() -> [Self; 2] {
        Self::both_with(BasicConfig::default().with_processes(true)).await
    }

    /// Where programs of the VM start.
    pub(crate) fn home(&self) -> PathBuf {
        home_below(self.base.path())
    }

    pub(crate) async fn both_with(config: BasicConfig) -> [Self; 2] {
        [
            Self::new(config.clone()).await,
            Self::new(config.with_lua_executable("lua5.4")).await,
        ]
    }
}

/// A manager of VMs of this type.
pub(crate) fn manager() -> VmManager {
    VmManager::new(VmFactory::new().with::<BasicConfig>())
}

/// Where programs of the VM start that has this base directory.
pub(crate) fn home_below(base: &Path) -> PathBuf {
    let vms = std::fs::read_dir(base).unwrap();
    let mut homes = vms.filter_map(|vm| Some(vm.ok()?.path().join("home")));
    homes.find(|home| home.is_dir()).unwrap()
}

pub(crate) async fn create(config: BasicConfig) -> BasicVm {
    let backend = BasicBackend::new(config).unwrap();
    backend.create_vm(VmId::new("lab").unwrap()).await.unwrap()
}

/// Waits for a process to be gone; the time limit of the test ends the wait.
pub(crate) async fn ended(pid: i32) {
    while runs(pid) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Whether a process exists and is no zombie.
pub(crate) fn runs(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit(')').next().unwrap().trim_start();
        !state.starts_with('Z')
    })
}

/// A living process whose working directory is this one or below it, also one that is removed.
pub(crate) fn somebody_below(dir: &Path) -> Option<i32> {
    let mut processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let at = std::fs::read_link(entry.path().join("cwd")).ok()?;
        (at.starts_with(dir) && runs(pid)).then_some(pid)
    })
}

/// The control groups whose names begin so.
pub(crate) fn groups_named(start: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for entry in entries {
            match entry.file_name().to_string_lossy().starts_with(start) {
                true => found.push(entry.path()),
                false => folders.push(entry.path()),
            }
        }
    }
    found
}

/// The processes that were started for a VM.
pub(crate) fn workers_of(lab: &Lab) -> Vec<i32> {
    let base = lab.base.path().to_str().unwrap().to_owned();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read_to_string(entry.path().join("cmdline")).ok()?;
            (line.contains("__lua-worker") && line.contains(&base)).then_some(pid)
        })
        .collect()
}
