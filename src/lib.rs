#![doc = include_str!("../README.md")]

pub use bioxen_vm_core::*;

#[cfg(feature = "basic")]
pub use bioxen_vm_basic as basic;

#[cfg(feature = "xcpng")]
pub use bioxen_vm_xcpng as xcpng;

#[cfg(feature = "curator")]
pub use bioxen_curator as curator;

#[cfg(feature = "net")]
pub use bioxen_net as net;

#[cfg(all(feature = "net", feature = "xcpng"))]
pub mod group;

#[cfg(feature = "sim")]
pub mod embedded;

#[cfg(feature = "map")]
pub mod map;
#[cfg(feature = "curator")]
pub mod rocks;

#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "cli")]
pub mod settings;
#[cfg(feature = "map")]
mod sums;

/// A factory that knows every VM type of this build.
///
/// It also knows the types that exist but are not compiled in, and names the feature that adds
/// each. Add types of your own with [`VmFactory::with`].
///
/// ```
/// # #[cfg(feature = "basic")]
/// assert!(bioxen::factory().vm_types().any(|name| name == "basic"));
/// ```
#[must_use]
pub fn factory() -> VmFactory {
    let factory = VmFactory::new()
        .without("basic", "basic")
        .without("xcpng", "xcpng");
    #[cfg(feature = "basic")]
    let factory = factory.with::<basic::BasicConfig>();
    #[cfg(feature = "xcpng")]
    let factory = factory.with::<xcpng::XcpngConfig>();
    factory
}

/// The programs in the documents compile.
#[cfg(doctest)]
#[doc = include_str!("../docs/migration.md")]
mod migration {}
#[cfg(all(doctest, feature = "basic", feature = "net"))]
#[doc = include_str!("../docs/messaging.md")]
mod messaging {}
