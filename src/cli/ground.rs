//! The VM that a command works in: one that is made for it and removed after it, or one that is there.

use std::sync::Arc;

#[cfg(feature = "xcpng")]
use bioxen_vm_core::BackendConfig as _;
use bioxen_vm_core::{LuaVm, Value, VmId, VmManager};
#[cfg(feature = "xcpng")]
use bioxen_vm_xcpng::{XcpngBackend, XcpngConfig};

use super::config;
#[cfg(feature = "xcpng")]
use super::config_without_template;
#[cfg(feature = "xcpng")]
use super::waiting::told;
use crate::settings::Settings;

/// Which VM, as the user says it.
#[derive(Debug, clap::Args)]
pub(super) struct Kind {
    /// VM type; `bioxen types` lists those of this build
    #[arg(
        long = "type",
        short = 't',
        default_value = "basic",
        value_name = "TYPE"
    )]
    vm_type: String,

    /// Use this VM of a pool, started if need be, instead of one made for this: its id, name or UUID,
    /// or `tag:NAME`
    #[cfg(feature = "xcpng")]
    #[arg(long, value_name = "VM", conflicts_with = "vm_type")]
    vm: Option<String>,

    /// Set a key of the type's configuration, `template=lua-bio-template` for example
    #[arg(long = "set", short = 's', value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Where it is, and what it takes to get there.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) manager: Arc<VmManager>,
    pub(super) vm_type: String,
    /// The keys that were set on the command line.
    pub(super) set: Vec<String>,
    pub(super) config: Value,
    pub(super) existing: Option<String>,
    /// The pool that the VM is on, where it is on one.
    #[cfg(feature = "xcpng")]
    pool: Option<Arc<XcpngBackend>>,
}

impl Kind {
    /// Finds out what the configuration says, before anything is made.
    pub(super) fn ground(self, settings: Settings) -> anyhow::Result<Ground> {
        #[cfg(feature = "xcpng")]
        if let Some(which) = self.vm {
            return Ground::existing(which, &self.set, settings);
        }
        Ground::new(self.vm_type, &self.set, settings)
    }
}

impl Ground {
    /// A VM made for what is to be done.
    pub(super) fn new(
        vm_type: String,
        set: &[String],
        mut settings: Settings,
    ) -> anyhow::Result<Self> {
        for assignment in set {
            settings.set(&vm_type, assignment)?;
        }
        let config = config(&settings, &vm_type)?;
        #[cfg(feature = "xcpng")]
        if vm_type == XcpngConfig::VM_TYPE {
            let pool = XcpngConfig::from_value(config.clone())?.build()?;
            return Ok(Self::on_pool(pool, set, config, None));
        }
        Ok(Self {
            manager: Arc::new(VmManager::new(crate::factory())),
            config,
            vm_type,
            set: set.to_vec(),
            existing: None,
            #[cfg(feature = "xcpng")]
            pool: None,
        })
    }

    /// A VM of a pool.
    #[cfg(feature = "xcpng")]
    pub(super) fn existing(
        which: String,
        set: &[String],
        mut settings: Settings,
    ) -> anyhow::Result<Self> {
        for assignment in set {
            settings.set(XcpngConfig::VM_TYPE, assignment)?;
        }
        let config = config_without_template(&settings)?;
        let pool = XcpngConfig::from_value(config.clone())?.build_without_template()?;
        Ok(Self::on_pool(pool, set, config, Some(which)))
    }

    #[cfg(feature = "xcpng")]
    fn on_pool(
        pool: XcpngBackend,
        set: &[String],
        config: Value,
        existing: Option<String>,
    ) -> Self {
        let pool = Arc::new(pool);
        let manager = VmManager::new(crate::factory());
        Self {
            manager: Arc::new(manager.with_backend(Arc::<XcpngBackend>::clone(&pool))),
            vm_type: XcpngConfig::VM_TYPE.to_owned(),
            set: set.to_vec(),
            config,
            existing,
            pool: Some(pool),
        }
    }

    /// Makes the VM, under this id, or finds and starts the one that is there, and tells its stages
    /// meanwhile.
    pub(super) async fn enter(&self, id: &str) -> anyhow::Result<Arc<dyn LuaVm>> {
        let entered = Box::pin(self.enter_untold(id));
        #[cfg(feature = "xcpng")]
        if let Some(pool) = &self.pool {
            return told(pool.subscribe(), entered).await;
        }
        entered.await
    }

    async fn enter_untold(&self, id: &str) -> anyhow::Result<Arc<dyn LuaVm>> {
        let (manager, config) = (&self.manager, self.config.clone());
        Ok(match &self.existing {
            Some(which) => {
                let id = handle(which, id);
                let vm = manager.adopt_vm(id, &self.vm_type, which, config).await?;
                vm.start().await?;
                vm
            }
            None => manager.create_vm(id, &self.vm_type, config).await?,
        })
    }
}

/// The id under which a VM that is there is used, so that errors name it as the user does: a tag and many
/// names are no ids, and become as similar as ids can be.
pub(super) fn handle(which: &str, otherwise: &str) -> String {
    let name = which.strip_prefix("tag:").unwrap_or(which);
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let similar: String = name
        .chars()
        .map(|c| if fits(c) { c } else { '-' })
        .collect();
    match VmId::new(similar) {
        Ok(id) => id.to_string(),
        Err(_) => otherwise.to_owned(),
    }
}

/// A manager that finds VMs of a pool, and so needs no template.
pub(super) fn for_existing(manager: VmManager, config: Value) -> anyhow::Result<VmManager> {
    #[cfg(feature = "xcpng")]
    {
        let config = bioxen_vm_xcpng::XcpngConfig::from_value(config)?;
        let pool = config.build_without_template()?;
        Ok(manager.with_backend(Arc::new(pool)))
    }
    #[cfg(not(feature = "xcpng"))]
    {
        let _ = config;
        Ok(manager)
    }
}
