//! Command `new`: makes a project for an operator of one's own, from the project in `examples/website`.
//!
//! The files are those of the example, built into this program, with other names. The tests of the example run
//! them, so what a new project gets is what the tests have seen.

mod files;
mod kinds;
mod names;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;

use self::names::Names;
use crate::{
    app::{
        exit::{Exit, Failure},
        monitoring, output, print,
    },
    k8s::rbac::Rules,
};

/// Makes a project for your own operator: resource, reconciler, shard worker, tests, image and chart
#[derive(Args, Debug)]
#[command(after_long_help = "\
  bellwether new shop --kind Order --group shop.example.com
  cd shop && make test && make run

The project is a crate with a custom resource, a reconciler for the leader, a worker for the shards of the followers, \
tests, a Dockerfile, a Helm chart, a Makefile and a CI workflow. Its README says what is where. With --add-kind a project \
gets another resource with a reconciler and a worker of its own.")]
pub(crate) struct NewArgs {
    /// Name of the operator: of its package, program, chart and cluster
    #[arg(value_name = "NAME", required_unless_present = "add_kind", conflicts_with = "add_kind")]
    name: Option<String>,

    /// Kind of the custom resource, like Order
    #[arg(
        long,
        value_name = "KIND",
        env = "BELLWETHER_NEW_KIND",
        required_unless_present = "add_kind",
        conflicts_with = "add_kind"
    )]
    kind: Option<String>,

    /// API group of the resource: a domain name of yours (with --add-kind the default is the group of the project)
    #[arg(
        long,
        value_name = "GROUP",
        env = "BELLWETHER_NEW_GROUP",
        default_value_if("add_kind", clap::builder::ArgPredicate::IsPresent, None),
        default_value = "example.com"
    )]
    group: Option<String>,

    /// Folder of the project (default: NAME; with --add-kind: the current one)
    #[arg(long, value_name = "FOLDER", env = "BELLWETHER_NEW_DIR")]
    dir: Option<PathBuf>,

    /// Adds a resource of this kind to a project that this command has made
    #[arg(long, value_name = "KIND", env = "BELLWETHER_NEW_ADD_KIND")]
    add_kind: Option<String>,

    /// Folder of this library's sources, for a project beside a clone of them (default: the released version)
    #[arg(long, value_name = "FOLDER", env = "BELLWETHER_NEW_LIBRARY")]
    library: Option<PathBuf>,
}

/// Runs the command `new`.
///
/// # Errors
///
/// A [`Failure`] that names the argument, its value and the rule. A project is written whole or not at all.
pub(crate) fn new(args: &NewArgs) -> Result<ExitCode, Failure> {
    if let Some(kind) = &args.add_kind {
        let folder = args.dir.as_deref().unwrap_or(Path::new("."));
        let added = kinds::add(folder, kind, args.group.as_deref())?;
        output::print(&added)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (Some(name), Some(kind), Some(group)) = (&args.name, &args.kind, &args.group) else {
        return Err(Failure::new(Exit::Usage, "NAME, --kind and --group name the new project"));
    };
    let names =
        Names::new(name, group, kind).map_err(|problem| Failure::new(Exit::Usage, problem))?;
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(name));
    let library = args.library.as_deref().map(library).transpose()?;
    write_project(&folder, &names, library.as_deref())?;
    output::print(&format!(
        "The operator {name} is in {}.\n\n  cd {}\n  make test    # unit tests, and a cluster of several operators\n  \
         make run     # on the cluster of your kubeconfig, as one node\n",
        folder.display(),
        folder.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Absolute path of the library's sources.
fn library(folder: &Path) -> Result<PathBuf, Failure> {
    let is_library = |folder: &Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml"));
        manifest.is_ok_and(|text| text.contains("name = \"bellwether\""))
    };
    match folder.canonicalize() {
        Ok(folder) if is_library(&folder) => Ok(folder),
        _ => Err(Failure::new(
            Exit::Usage,
            format!("--library {:?} is not a clone of bellwether", folder.display().to_string()),
        )
        .try_this("name the folder that has the Cargo.toml of bellwether")),
    }
}

/// Writes the files of the project. They are written into a new folder inside of `folder`, which may be `.`, and then
/// moved, so that a failure leaves nothing behind.
fn write_project(folder: &Path, names: &Names, library: Option<&Path>) -> Result<(), Failure> {
    let (is_free, exists) = match fs::read_dir(folder) {
        Ok(mut entries) => (entries.next().is_none(), true),
        Err(error) => (error.kind() == io::ErrorKind::NotFound, false),
    };
    if !is_free {
        return Err(Failure::new(Exit::Usage, format!("{} exists already", folder.display()))
            .try_this("choose another NAME, name an empty folder with --dir, or add a resource with --add-kind"));
    }
    let written = fs::create_dir_all(folder).and_then(|()| {
        let stage = tempfile::Builder::new().prefix(".bellwether-new-").tempdir_in(folder)?;
        write_files(stage.path(), names, library)?;
        for entry in fs::read_dir(stage.path())? {
            let entry = entry?;
            fs::rename(entry.path(), folder.join(entry.file_name()))?;
        }
        Ok(())
    });
    written.map_err(|error| {
        if !exists {
            // The error that is returned says more than one of the clean-up.
            let _ = fs::remove_dir_all(folder);
        }
        Failure::caused(Exit::Local, &format!("writing {}", folder.display()), &error)
    })
}

/// File with the roles of the chart, whose order depends on the names.
const RULES: &str = "chart/files/rbac.yaml";

fn write_files(project: &Path, names: &Names, library: Option<&Path>) -> io::Result<()> {
    for (path, text) in files::PROJECT {
        let text = match *path {
            "Cargo.toml" => manifest(text, library),
            _ => (*text).to_owned(),
        };
        let text = names.in_place_of_website(&text);
        let text = if *path == RULES { Rules::sorted(&text).yaml() } else { text };
        write(&project.join(names.in_place_of_website(path)), &text)?;
    }
    for (path, text) in print::common_files(&monitoring::dashboards(&names.project)) {
        write(&project.join("chart/files").join(path), &text)?;
    }
    // The library chart is the same in each project.
    for (path, text) in files::LIBRARY_CHART {
        write(&project.join("chart/charts/bellwether-operator").join(path), text)?;
    }
    Ok(())
}

/// The manifest with the library from a registry or from a folder, where the example's names the folder of the
/// repository. The example is a member of a workspace, and a project is a workspace of its own.
fn manifest(text: &str, library: Option<&Path>) -> String {
    let source = match library {
        Some(folder) => format!("path = {:?}", folder.display().to_string()),
        None => format!("version = {:?}", env!("CARGO_PKG_VERSION")),
    };
    text.replace("path = \"../..\"", &source)
        .replace("[dependencies]", "[workspace]\n\n[dependencies]")
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, text)
}

#[cfg(test)]
mod tests;
