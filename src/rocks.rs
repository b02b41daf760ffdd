//! The rocks of this project, which come along with the library.

use bioxen_curator::{EmbeddedRocks, Result, RocksServer};

/// What stands for [`server`] among the servers of `bioxen pkg` and `bioxen run`, and in locks.
pub const NAME: &str = "bioxen";

/// A server of this project's rocks, `bio_compute` and `bio_sequence_analysis`. They are part of the
/// library, so they install in every VM without any network or account.
///
/// ```no_run
/// # async fn example(vm: std::sync::Arc<dyn bioxen::LuaVm>) -> Result<(), bioxen::curator::Error> {
/// use bioxen::curator::LuaVmPackages as _;
///
/// let curator = vm.curator().await?.with_servers([bioxen::rocks::server()?]);
/// curator.install_package("bio_sequence_analysis").await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Fails only when this build of the library has broken rocks.
pub fn server() -> Result<RocksServer> {
    Ok(RocksServer::Embedded(embedded()?))
}

/// The rocks of this project.
///
/// # Errors
/// As [`server`].
pub fn embedded() -> Result<EmbeddedRocks> {
    EmbeddedRocks::new(NAME, include!(concat!(env!("OUT_DIR"), "/rocks.rs")))
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_rocks_come_along() {
        let rocks = super::embedded().unwrap();
        let names: Vec<_> = rocks
            .rocks()
            .iter()
            .map(|rock| rock.name.as_str())
            .collect();
        assert_eq!(names, ["bio_compute", "bio_sequence_analysis"]);
    }
}
