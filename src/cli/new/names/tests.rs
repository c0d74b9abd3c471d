use super::*;

fn names(project: &str, group: &str, kind: &str) -> Names {
    Names::new(project, group, kind).unwrap()
}

#[test]
fn a_kind_of_several_words_is_a_module_and_a_plural() {
    let order = names("shop", "shop.example.com", "ShopOrder");
    assert_eq!((&*order.module, &*order.plural), ("shop_order", "shoporders"));
    let route = names("shop", "shop.example.com", "HTTPRoute2");
    assert_eq!((&*route.module, &*route.plural), ("http_route2", "httproute2s"));
    let plurals = ["Policy", "Gateway", "Address", "Mesh", "Tax", "Website"]
        .map(|kind| names("shop", "shop.example.com", kind).plural);
    assert_eq!(plurals, ["policies", "gateways", "addresses", "meshes", "taxes", "websites"]);
}

#[test]
fn each_form_of_a_name_gets_its_own_replacement() {
    let it = names("corner-shop", "shop.example.com", "ShopOrder");
    for (from, to) in [
        ("use website_operator::Website;", "use corner_shop::ShopOrder;"),
        ("name = \"website-operator\"", "name = \"corner-shop\""),
        ("pub mod website;", "pub mod shop_order;"),
        ("website::reconcile", "shop_order::reconcile"),
        ("src/website.rs", "src/shop_order.rs"),
        ("WebsiteSpec, WebsiteStatus", "ShopOrderSpec, ShopOrderStatus"),
        ("websites.example.bellwether.dev", "shoporders.shop.example.com"),
        ("\"website-checks\"", "\"shop-order-checks\""),
        ("kubectl get website", "kubectl get shoporder"),
        ("let sites = site.clone();", "let shop_orders = shop_order.clone();"),
        ("composite opposite", "composite opposite"),
        ("all Websites", "all ShopOrders"),
    ] {
        assert_eq!(it.in_place_of_website(from), to);
    }
}

#[test]
fn the_projects_own_names_change_nothing() {
    let own = names("website-operator", "sites.example.com", "Website");
    let text = "website-operator website_operator Websites Website websites website:: mod website;";
    assert_eq!(own.in_place_of_website(text), text);
}

#[test]
fn names_that_rust_kubernetes_or_helm_refuse_are_refused_with_the_rule() {
    let wrong = |project, group, kind| Names::new(project, group, kind).unwrap_err();
    let group = "shop.example.com";
    let long = "a".repeat(54);
    for name in ["", "Shop", "shop_x", "9shop", "shop-", "-shop", "sh.op", "shöp", "a b", "../x"] {
        assert!(wrong(name, group, "Order").contains("lower-case letters"), "{name}");
    }
    assert!(wrong(&long, group, "Order").contains("54 characters"));
    for name in ["match", "std", "test", "proc-macro", "bellwether"] {
        assert!(wrong(name, group, "Order").contains("reserved"), "{name}");
    }
    for group in ["", "shop", "Shop.example.com", "shop..com", "-a.com", "a_b.com", ".com", "a.b."]
    {
        assert!(wrong("shop", group, "Order").contains("domain name"), "{group}");
    }
    for group in ["apps.k8s.io", "k8s.io", "x.kubernetes.io"] {
        assert!(wrong("shop", group, "Order").contains("Kubernetes project"), "{group}");
    }
    assert!(wrong("shop", "x.bellwether.dev", "Order").contains("this library"));
    for kind in ["", "order", "Shop-Order", "Shop_Order", "Ördnung", "9Order"] {
        assert!(wrong("shop", group, kind).contains("capital letter"), "{kind}");
    }
    for kind in ["ConfigMap", "Context", "Election", "Self", "ConfigMapSpec"] {
        assert!(wrong("shop", group, kind).contains("already"), "{kind}");
    }
    for kind in ["Match", "Type", "Checks", "Lib"] {
        assert!(wrong("shop", group, kind).contains("reserves"), "{kind}");
    }
}
