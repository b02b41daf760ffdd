//! What the examples share: a pool, a manager, and this project's rocks.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bioxen::curator::{PackageInstaller, RocksServer, publish};
use bioxen::embedded::Pool;
use bioxen::local::{LocalRunner, PrivateDir};
use bioxen::settings::Settings;
use bioxen::{Script, Value, VmManager};

/// A pool to work on and the rocks to work with.
pub(crate) struct Lab {
    pool: Pool,
    manager: Arc<VmManager>,
    /// Removes the rocks at the end.
    _folder: PrivateDir,
    rocks: PathBuf,
}

impl Lab {
    async fn open() -> anyhow::Result<Self> {
        let mut settings = Settings::new();
        settings.read_environment(std::env::vars());
        let folder = PrivateDir::temporary("bioxen-rocks-")?;
        let rocks = folder.path().join("packed");
        let sources = ["bio_compute", "bio_sequence_analysis"].map(|name| {
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("rocks")
                .join(name)
        });
        publish(&sources, &rocks, &LocalRunner::new()).await?;
        let pool = Pool::open(settings.config("xcpng")).await?;
        let manager = Arc::new(VmManager::new(bioxen::factory()));
        Ok(Self {
            pool,
            manager,
            _folder: folder,
            rocks,
        })
    }

    /// The configuration of VMs on the pool, with these defaults for what the user has not set.
    pub(crate) fn config(&self, defaults: Value) -> Value {
        self.pool.config(defaults)
    }

    /// The owner of the VMs.
    pub(crate) fn manager(&self) -> &VmManager {
        &self.manager
    }

    /// Runs a program in a VM, shows what it writes, and expects it to succeed.
    pub(crate) async fn run(&self, vm: &str, script: Script) -> anyhow::Result<()> {
        let outcome = self.manager.execute_vm(vm, script).await?;
        print!("{}", outcome.stdout_text());
        eprint!("{}", outcome.stderr_text());
        anyhow::ensure!(
            outcome.success(),
            "the Lua program failed: {}",
            outcome.status
        );
        Ok(())
    }

    /// Installs packages in those VMs, from this project's rocks.
    pub(crate) fn installer(&self) -> PackageInstaller<Arc<VmManager>> {
        let server = RocksServer::Directory(self.rocks.clone());
        PackageInstaller::new(Arc::clone(&self.manager)).with_servers([server])
    }
}

/// Opens a lab, works in it, and removes everything again, also after Ctrl-C.
pub(crate) async fn in_lab(
    work: impl AsyncFnOnce(&Lab) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let lab = Lab::open().await?;
    let result = tokio::select! {
        result = work(&lab) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    lab.manager.shutdown_all().await?;
    lab.pool.close().await;
    result
}
