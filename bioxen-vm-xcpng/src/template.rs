//! Makes a template for VMs: from another template, or from the image of a disk.

mod build;
mod guest;
mod image;
mod list;
mod remove;

use std::path::PathBuf;
use std::sync::Arc;

use bioxen_vm_core::{Backend as _, BackendConfig as _, LuaVm, PackageSite, Result, VmId};

use crate::backend::{XcpngBackend, random_name};
use crate::config::{FirstContact, XcpngConfig};
use crate::error::Error;
use crate::vm::XcpngVm;
use image::ImageBase;
pub use list::TemplateInfo;
pub(crate) use list::is_built_in;

/// What a template is called unless the user says otherwise.
const NAME: &str = "lua-bio-template";

/// Makes a template on a pool.
///
/// A VM is made and started, gets Lua, LuaRocks and what else is missing by its own package manager,
/// is left to the caller to install packages in, forgets who it is, and is turned into a template.
/// Until that is complete everything is marked as a VM is, so that
/// [`XcpngBackend::collect`] finds what a killed program has left of it.
///
/// ```no_run
/// # async fn example(config: bioxen_vm_xcpng::XcpngConfig) -> bioxen_vm_core::Result<()> {
/// use bioxen_vm_xcpng::TemplateBuilder;
///
/// // The template of the configuration is what the new one is made from.
/// let build = TemplateBuilder::new(config).named("lua-bio-template").begin().await?;
/// // Here packages can be installed, in `build.package_site()`.
/// let template = build.finish().await?;
/// println!("{} ({})", template.name, template.uuid);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct TemplateBuilder {
    config: XcpngConfig,
    image: Option<PathBuf>,
    name: String,
}

/// A template that is being made: a VM that runs, with everything that VMs of it will need.
///
/// End it with [`finish`](Self::finish) or [`abandon`](Self::abandon). When it is dropped, the VM
/// stays until [`XcpngBackend::collect`] removes it.
#[derive(Debug)]
#[must_use = "it has to be finished or abandoned"]
pub struct TemplateBuild {
    backend: XcpngBackend,
    vm: Arc<dyn LuaVm>,
    base: Option<ImageBase>,
    name: String,
    installed: Vec<String>,
    is_root: bool,
    has_tools: bool,
}

/// A template that was made, or that was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Template {
    /// Its name on the pool.
    pub name: String,
    /// The UUID that the pool gave it.
    pub uuid: String,
    /// What all its VMs share that none should, because it could not be removed: paths.
    pub left: Vec<String>,
}

impl TemplateBuilder {
    /// Prepares to make a template from that of a configuration, whose pool, storage, networks,
    /// memory and way in are used. It does no I/O.
    #[must_use]
    pub fn new(config: XcpngConfig) -> Self {
        Self {
            config,
            image: None,
            name: NAME.to_owned(),
        }
    }

    /// Makes it from the image of a disk with an installed system and cloud-init, in place of a
    /// template: a file in the form raw or VHD, as the makers of systems offer them for clouds.
    #[must_use]
    pub fn from_image(mut self, path: impl Into<PathBuf>) -> Self {
        self.image = Some(path.into());
        self
    }

    /// Sets the name of the new template, `lua-bio-template` by default.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Makes the VM, starts it and installs in it what is missing.
    ///
    /// # Errors
    /// Fails when the pool has a template of that name, when the VM cannot be made or reached, and
    /// when something that is missing could not be installed; then nothing is left on the pool.
    ///
    /// # Cancel safety
    /// What a dropped future has made is left for [`XcpngBackend::collect`].
    pub async fn begin(mut self) -> Result<TemplateBuild> {
        if self.image.is_some() {
            // It names no template; what is made of the image will be.
            if self.config.template.is_empty() {
                self.config.template = "(image)".into();
            }
            if self.config.ssh.first_contact == FirstContact::Auto {
                self.config.ssh.first_contact = FirstContact::ConfigDrive;
            }
        }
        // Those of the template's VMs are not its own.
        self.config.disks.clear();
        let backend = self.config.clone().build()?;
        let base = match self.prepare(&backend).await {
            Ok(base) => base,
            Err(error) => {
                close(&backend).await;
                return Err(error.into());
            }
        };
        let mut config = self.config.clone();
        config.name = Some(format!("bioxen-template-{}", random_name()));
        if let Some(base) = &base {
            config.template = base.uuid.clone();
        }
        let made = match base {
            // Its own session: the one that made the base keeps the record of that.
            Some(_) => config.build(),
            None => {
                close(&backend).await;
                config.build()
            }
        };
        let base = base.map(|image| image.kept_by(backend));
        let made = match made {
            Ok(made) => made,
            Err(error) => {
                remove_base(base).await;
                return Err(error);
            }
        };
        match fill(&made).await {
            Ok((vm, filled)) => Ok(TemplateBuild {
                backend: made,
                vm,
                base,
                name: self.name,
                installed: filled.installed,
                is_root: filled.is_root,
                has_tools: filled.has_tools,
            }),
            Err(error) => {
                close(&made).await;
                remove_base(base).await;
                Err(error)
            }
        }
    }

    /// Looks whether the name is free and the image, if it is made from one, can be used. Nothing is
    /// made; [`begin`](Self::begin) looks again.
    ///
    /// # Errors
    /// Fails when it is not so, or the pool cannot be asked.
    pub async fn check(&self) -> Result<()> {
        if let Some(path) = &self.image {
            image::check(path).await?;
        }
        let backend = self.config.clone().build_without_template()?;
        let free = self.is_free(&backend).await;
        close(&backend).await;
        Ok(free?)
    }

    /// Looks whether the template can be made, and makes what it is made from.
    async fn prepare(&self, backend: &XcpngBackend) -> Result<Option<ImageBase>, Error> {
        self.is_free(backend).await?;
        match &self.image {
            Some(path) => Ok(Some(ImageBase::make(backend.shared(), path).await?)),
            None => Ok(None),
        }
    }

    /// Fails when a template of the name cannot be made.
    async fn is_free(&self, backend: &XcpngBackend) -> Result<(), Error> {
        let shared = backend.shared();
        if let crate::settings::Keys::Fixed { .. } = shared.settings().login.keys {
            return Err(Error::TemplateKeys);
        }
        let client = shared.client().await?;
        let taken = client.vm().get_by_name_label(&self.name).await;
        let taken = taken.map_err(Error::pool("look for a template of the name"))?;
        for vm in taken {
            let is_template = client.vm().get_is_a_template(&vm).await;
            if is_template.map_err(Error::pool("look for a template of the name"))? {
                return Err(Error::TemplateExists {
                    name: self.name.clone(),
                });
            }
        }
        Ok(())
    }
}

/// Makes a VM, and installs what is missing in it. Leaves nothing when that fails.
async fn fill(backend: &XcpngBackend) -> Result<(Arc<dyn LuaVm>, guest::Filled)> {
    let vm = backend
        .create(VmId::new(format!("template-{}", random_name()))?)
        .await?;
    match guest::fill(special(&vm)?).await {
        Ok(filled) => Ok((vm, filled)),
        Err(error) => {
            vm.destroy().await?;
            Err(error.into())
        }
    }
}

/// The VM as this crate knows it. Its backend makes no other.
fn special(vm: &Arc<dyn LuaVm>) -> Result<&XcpngVm> {
    let any: &dyn std::any::Any = &**vm;
    any.downcast_ref().ok_or_else(|| Error::Closed.into())
}

async fn close(backend: &XcpngBackend) {
    if let Err(error) = backend.close().await {
        tracing::debug!(%error, "the session is left to the pool");
    }
}

async fn remove_base(base: Option<ImageBase>) {
    if let Some(base) = base
        && let Err(error) = base.remove().await
    {
        tracing::warn!(error = %crate::error::chain(&error), "`bioxen gc` removes it");
    }
}

impl TemplateBuild {
    /// The VM that becomes the template.
    #[must_use]
    pub fn vm(&self) -> Arc<dyn LuaVm> {
        Arc::clone(&self.vm)
    }

    /// What was missing and has been installed: `lua`, `luarocks`, `compiler` and so on.
    #[must_use]
    pub fn installed(&self) -> &[String] {
        &self.installed
    }

    /// Whether it has guest tools. Without them, nobody knows the addresses of VMs of the template but
    /// those who set them.
    #[must_use]
    pub fn has_guest_tools(&self) -> bool {
        self.has_tools
    }

    /// Where its packages are installed: for all users where the login may do that.
    ///
    /// # Errors
    /// Fails when the VM cannot be reached.
    pub async fn package_site(&self) -> Result<PackageSite> {
        let mut site = self.vm.package_site().await?;
        if self.is_root {
            site.tree = "/usr/local".into();
        }
        Ok(site)
    }

    /// Lets the VM forget who it is, shuts it down and turns it into the template.
    ///
    /// # Errors
    /// Fails when one of that does not succeed; then nothing is left on the pool.
    ///
    /// # Cancel safety
    /// What a dropped future has left is for [`XcpngBackend::collect`].
    pub async fn finish(self) -> Result<Template> {
        let turned = build::turn(special(&self.vm)?, &self.name).await;
        match turned {
            Ok(template) => {
                close(&self.backend).await;
                if let Some(base) = self.base {
                    base.remove().await?;
                }
                Ok(template)
            }
            Err(error) => {
                let error = bioxen_vm_core::Error::from(error);
                match self.abandon().await {
                    Ok(()) => Err(error),
                    Err(left) => Err(left),
                }
            }
        }
    }

    /// Removes the VM.
    ///
    /// # Errors
    /// Fails when it could not be removed.
    pub async fn abandon(self) -> Result<()> {
        let removed = self.vm.destroy().await;
        close(&self.backend).await;
        remove_base(self.base).await;
        removed
    }
}
