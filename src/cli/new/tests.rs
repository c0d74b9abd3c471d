use std::path::Path;

use tempfile::TempDir;

use super::{files::tests::below, *};

fn args(words: &[&str]) -> NewArgs {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        new: NewArgs,
    }
    <Line as clap::Parser>::try_parse_from(["new"].iter().chain(words)).unwrap().new
}

/// A project `shop` with a kind `ShopOrder`, in a folder of its own.
fn shop() -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let project = folder.path().join("shop");
    let dir = project.to_str().unwrap();
    new(&args(&["shop", "--kind", "ShopOrder", "--group", "acme.example.com", "--dir", dir]))
        .unwrap();
    (folder, project)
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn a_project_has_its_own_names_everywhere() {
    let (_folder, project) = shop();
    for file in below(&project, &["chart/charts"]) {
        let text = format!("{file}\n{}", read(&project.join(&file)));
        for word in ["website", "Website", "example.bellwether.dev", "../.."] {
            assert!(!text.contains(word), "{word} in {file}: {text}");
        }
    }
    let manifest = read(&project.join("Cargo.toml"));
    assert!(manifest.contains("name = \"shop\"") && manifest.contains("[workspace]"), "{manifest}");
    assert!(manifest.contains(&format!("version = {:?}", env!("CARGO_PKG_VERSION"))));
    let source = read(&project.join("src/shop_order.rs"));
    assert!(source.contains("kind = \"ShopOrder\"") && source.contains("plural = \"shoporders\""));
    let definition = read(&project.join("chart/files/crds/shoporders.yaml"));
    assert!(definition.contains("name: shoporders.acme.example.com"), "{definition}");
    let library = below(&project.join("chart/charts/bellwether-operator"), &[]);
    assert_eq!(library.len(), files::LIBRARY_CHART.len());
}

#[test]
fn rules_of_a_project_are_sorted_as_the_program_prints_them() {
    let (_folder, project) = shop();
    let text = read(&project.join("chart/files/rbac.yaml"));
    // The group of the kind comes before `apps` here, and after it in the example.
    let (own, apps) = (text.find("acme.example.com").unwrap(), text.find("- apps").unwrap());
    assert!(own < apps, "{text}");
}

#[test]
fn a_folder_that_is_not_empty_is_left_as_it_is() {
    let (_folder, project) = shop();
    fs::write(project.join("mine"), "x").unwrap();
    let before = below(&project, &[]);
    let dir = project.to_str().unwrap();
    let failure = new(&args(&["shop", "--kind", "Order", "--dir", dir])).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.to_string().contains("exists already"), "{failure}");
    assert_eq!(below(&project, &[]), before);
}

#[test]
fn an_empty_folder_becomes_the_project_and_nothing_else_is_in_it() {
    let (_folder, project) = shop();
    let empty = TempDir::new().unwrap();
    let dir = empty.path().to_str().unwrap();
    new(&args(&["shop", "--kind", "ShopOrder", "--group", "acme.example.com", "--dir", dir]))
        .unwrap();
    assert_eq!(below(empty.path(), &[]), below(&project, &[]));
}

#[test]
fn a_project_that_cannot_be_written_leaves_nothing_behind() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    fs::write(&file, "x").unwrap();
    let dir = file.join("shop");
    let failure =
        new(&args(&["shop", "--kind", "Order", "--dir", dir.to_str().unwrap()])).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(below(folder.path(), &[]), ["file"]);
}

#[test]
fn a_wrong_name_writes_nothing_and_names_the_rule() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("shop");
    let failure =
        new(&args(&["Shop", "--kind", "Order", "--dir", dir.to_str().unwrap()])).unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert!(failure.to_string().contains("\"Shop\" is not a name"), "{failure}");
    assert!(!dir.exists());
}

#[test]
fn a_library_that_is_none_is_refused() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().join("shop");
    let words = ["shop", "--kind", "Order", "--dir", dir.to_str().unwrap(), "--library"];
    let failure =
        new(&args(&[&words[..], &[folder.path().to_str().unwrap()]].concat())).unwrap_err();
    assert!(failure.to_string().contains("is not a clone of bellwether"), "{failure}");
    let own = env!("CARGO_MANIFEST_DIR");
    new(&args(&[&words[..], &[own]].concat())).unwrap();
    let manifest = read(&dir.join("Cargo.toml"));
    assert_eq!(manifest.matches(&format!("path = {own:?}")).count(), 2, "{manifest}");
}

#[test]
fn a_second_kind_gets_a_module_a_definition_and_controllers_in_the_group_of_the_project() {
    let (_folder, project) = shop();
    let dir = project.to_str().unwrap();
    new(&args(&["--add-kind", "Customer", "--dir", dir])).unwrap();
    let lib = read(&project.join("src/lib.rs"));
    for line in [
        "pub mod shop_order;\npub mod customer;\n",
        "        shop_order::ShopOrder::crd(),\n        customer::Customer::crd(),\n",
        "        .with(customer::controllers)\n        // --add-kind: controllers\n        \
         .with(shop_order::controllers)\n",
    ] {
        assert!(lib.contains(line), "{line} in {lib}");
    }
    let source = read(&project.join("src/customer.rs"));
    assert!(source.contains("group = \"acme.example.com\""), "{source}");
    assert!(source.contains("plural = \"customers\""), "{source}");
    let again = new(&args(&["--add-kind", "Customer", "--dir", dir])).unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
    assert_eq!(read(&project.join("src/lib.rs")), lib);
}

#[test]
fn a_folder_without_a_project_gets_no_second_kind() {
    let folder = TempDir::new().unwrap();
    let dir = folder.path().to_str().unwrap();
    let failure = new(&args(&["--add-kind", "Customer", "--dir", dir])).unwrap_err();
    assert!(failure.to_string().contains("--dir"), "{failure}");
    assert_eq!(below(folder.path(), &[]), Vec::<String>::new());
}
