//! placeholder
#[derive(Debug, Default)]
pub(crate) struct Catalogs {}
