//! Where the programs of an environment are, found like other test environments find them.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::EnvironmentError;

/// Folder of the programs, as `setup-envtest use -p path` prints it.
const FOLDER: &str = "KUBEBUILDER_ASSETS";

/// Folder of the programs if no variable names another one.
const USUAL: &str = "/usr/local/kubebuilder/bin";

/// The path of a program: from the given folder, else from `KUBEBUILDER_ASSETS`, else from `PATH` and the usual
/// folder. A variable of the program alone, such as `TEST_ASSET_ETCD`, comes before `KUBEBUILDER_ASSETS`.
///
/// # Errors
///
/// [`EnvironmentError::Missing`] if no folder has the program.
pub(super) fn find(
    program: &'static str,
    given: Option<&Path>,
    lookup: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, EnvironmentError> {
    let lookup = |name: &str| lookup(name).filter(|it| !it.is_empty());
    let looked: Vec<PathBuf> = if let Some(folder) = given {
        vec![folder.to_owned()]
    } else {
        let own = format!("TEST_ASSET_{}", program.replace('-', "_").to_uppercase());
        if let Some(path) = lookup(&own).map(PathBuf::from).filter(|it| it.is_file()) {
            return Ok(path);
        }
        if let Some(folder) = lookup(FOLDER) {
            vec![folder.into()]
        } else {
            let path = lookup("PATH").unwrap_or_default();
            env::split_paths(&path).chain([PathBuf::from(USUAL)]).collect()
        }
    };
    let found = looked.iter().map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or(EnvironmentError::Missing { program, looked })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_program_is_found_where_the_first_source_names_it() {
        let folder = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = folder.path().join(name);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("etcd"), "").unwrap();
            folder
        };
        let [given, assets, on_path] = ["given", "assets", "path"].map(make);
        let alone = assets.join("etcd");
        let found = |given: Option<&Path>, variables: &[(&str, &Path)]| {
            find("etcd", given, |name| {
                let value = variables.iter().find(|(it, _)| *it == name)?.1;
                Some(value.as_os_str().to_owned())
            })
        };
        let (path, folder) = (("PATH", on_path.as_path()), (FOLDER, assets.as_path()));
        assert_eq!(found(None, &[path]).unwrap(), on_path.join("etcd"));
        assert_eq!(found(None, &[path, folder]).unwrap(), assets.join("etcd"));
        assert_eq!(found(Some(&given), &[path, folder]).unwrap(), given.join("etcd"));
        let alone = [("TEST_ASSET_ETCD", alone.as_path()), (FOLDER, given.as_path())];
        assert_eq!(found(None, &alone).unwrap(), assets.join("etcd"));

        // A folder that the variable names, and that does not have the program, is no reason to look elsewhere.
        let empty = given.join("none");
        let missing = found(None, &[path, (FOLDER, &empty)]).unwrap_err().to_string();
        assert!(missing.contains("etcd was not found"), "{missing}");
        for words in [FOLDER, "setup-envtest use -p path", &empty.display().to_string()] {
            assert!(missing.contains(words), "{missing}");
        }
    }
}
