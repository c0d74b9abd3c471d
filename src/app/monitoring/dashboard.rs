//! A dashboard file, and what Grafana reads of it.
//!
//! A file in `dashboards/` has rows of panels with queries in `PromQL`, in which the metrics stand by name alone. Each
//! metric that the library registers is narrowed to what the reader chose, see [`narrow`](super::narrow). The output is
//! Grafana's classic model, which provisioning by files and `ConfigMaps` uses and every Grafana since 10 reads.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    narrow::{Metrics, VARIABLES, chosen},
    panel::{Panel, datasource},
};
use crate::{hash::fnv1a, telemetry::metrics::BUILD_INFO};

/// Schema version of the output. Newer Grafanas migrate the model when they load it.
const SCHEMA_VERSION: u32 = 41;
/// Width of a dashboard in columns.
const COLUMNS: u32 = 24;
/// Most characters of an operator's name in an identifier: Grafana refuses identifiers above 40 characters.
const NAME_MOST: usize = 27;

/// Marks on every panel with a time axis: name, colour, query, and title of each mark.
const ANNOTATIONS: [(&str, &str, &str, &str); 5] = [
    (
        "New leader",
        "purple",
        "(leader_election_master_status and on (cluster, namespace, job, instance) bellwether_build_info) == 1 and \
         changes(leader_election_master_status[1m]) > 0",
        "{{instance}} leads",
    ),
    (
        "Resigned",
        "blue",
        "sum by (instance) (increase(bellwether_transitions_total{reason=\"resigned\"}[1m])) > 0",
        "{{instance}} resigned",
    ),
    (
        "Drained",
        "light-blue",
        "max by (instance) (bellwether_drained) == 1",
        "{{instance}} is drained",
    ),
    (
        "New version",
        "yellow",
        "count by (version, commit) (bellwether_build_info) unless count by (version, commit) (bellwether_build_info \
         offset 1m)",
        "{{version}} ({{commit}}) runs",
    ),
    (
        "Alerts",
        "orange",
        "count by (alertname) (ALERTS{alertname=~\"Bellwether.*\", alertstate=\"firing\"})",
        "{{alertname}}",
    ),
];

/// Dashboard for Grafana, of one operator.
#[derive(Clone, Debug)]
pub struct Dashboard {
    name: String,
    uid: String,
    model: Value,
}

/// Dashboard as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    title: String,
    about: String,
    /// Metric of programs that are shown at the reader's choice, although they are not of this operator.
    programs: Option<String>,
    /// Parts of queries by their names. In queries they stand as `<name>`.
    #[serde(rename = "let", default)]
    parts: BTreeMap<String, String>,
    rows: Vec<Row>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    title: String,
    /// Whether the panels are shown, and queried, only when the row is opened.
    #[serde(default)]
    collapsed: bool,
    panels: Vec<Panel>,
}

impl Dashboard {
    /// Makes the dashboard of a file for the operator of that name. The name is in title and identifier, so that the
    /// dashboards of two operators stand side by side.
    pub(super) fn of(file: &str, name: &str, operator: &str, metrics: &Metrics) -> Self {
        let file: File = serde_saphyr::from_str(file).expect("a test reads every file");
        let uid = format!("{}-{name}", short(operator));
        let model = file.model(&uid, operator, metrics);
        Self { name: name.to_owned(), uid, model }
    }

    /// Name of the dashboard on the command line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Identifier of the dashboard in links, and name of its file, which never change.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// JSON model that Grafana reads.
    pub fn to_json(&self) -> Value {
        self.model.clone()
    }
}

/// The name of the operator, or a shorter one that only this name gives.
fn short(operator: &str) -> String {
    if operator.len() <= NAME_MOST {
        return operator.to_owned();
    }
    let begin: String = operator.chars().take(NAME_MOST - 9).collect();
    format!("{begin}-{:08x}", fnv1a(operator.as_bytes()) as u32)
}

impl File {
    fn model(&self, uid: &str, operator: &str, metrics: &Metrics) -> Value {
        let narrow = |query: &str| metrics.narrow(&self.spelt_out(query));
        let annotations = ANNOTATIONS.map(|(name, colour, query, title)| {
            json!({
                "name": name, "datasource": datasource(), "enable": true, "hide": false, "iconColor": colour,
                "expr": narrow(query), "step": "30s", "titleFormat": title, "textFormat": "",
            })
        });
        let family = format!("operator:{operator}");
        json!({
            "uid": uid,
            "title": format!("{operator} / {}", self.title),
            "description": self.about,
            "tags": ["bellwether", family],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "id": null,
            "editable": false,
            "graphTooltip": 1,
            "fiscalYearStartMonth": 0,
            "weekStart": "",
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "timepicker": {},
            "links": [{
                "title": operator, "type": "dashboards", "tags": [family], "asDropdown": false, "icon": "external link",
                "includeVars": true, "keepTime": true, "targetBlank": false, "tooltip": "", "url": "",
            }],
            "annotations": {"list": annotations},
            "templating": {"list": self.variables(operator)},
            "panels": self.laid_out(&narrow),
        })
    }

    fn spelt_out(&self, query: &str) -> String {
        let replaced = |query: String, (name, part): (&String, &String)| {
            query.replace(&format!("<{name}>"), part)
        };
        self.parts.iter().fold(query.to_owned(), replaced)
    }

    /// The variables: data source, programs, and the labels of targets. Their choices are the targets of this operator.
    fn variables(&self, operator: &str) -> Vec<Value> {
        let mut list = vec![json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "includeAll": false, "multi": false, "options": [], "refresh": 1, "regex": "",
        })];
        let mut identity = vec![format!("operator=\"{operator}\"")];
        let mut metric = BUILD_INFO;
        if let Some(all) = &self.programs {
            let choice = |text: &str, value: &str, selected| json!({"text": text, "value": value, "selected": selected});
            let (own, every) =
                (choice(operator, BUILD_INFO, true), choice("every controller", all, false));
            list.push(json!({
                "name": "programs", "label": "Programs", "type": "custom", "hide": 0, "includeAll": false, "multi": false,
                "query": format!("{operator} : {BUILD_INFO}, every controller : {all}"), "current": own,
                "options": [own, every],
            }));
            // Metrics of controller-runtime do not have the label.
            identity =
                vec!["__name__=~\"$programs\"".to_owned(), format!("operator=~\"{operator}|\"")];
            metric = "";
        }
        for (name, label) in VARIABLES {
            let definition = format!("label_values({metric}{{{}}}, {name})", identity.join(", "));
            let mut variable = json!({
                "name": name, "label": label, "type": "query", "datasource": datasource(), "definition": definition,
                "query": {"query": definition, "refId": format!("{name}Variable")},
                "current": {"text": ["All"], "value": ["$__all"]}, "includeAll": true, "multi": true,
                "hide": 0, "options": [], "refresh": 2, "regex": "", "sort": 1,
            });
            // Targets may be without these labels. "All" must match them, too. For the other labels, "All" is
            // every choice, which leaves out the targets of other operators.
            if ["cluster", "namespace"].contains(&name) {
                variable["allValue"] = ".*".into();
            }
            list.push(variable);
            identity.push(chosen(name));
        }
        list
    }

    /// Lays out the panels from left to right and the rows from top to bottom.
    fn laid_out(&self, narrow: &dyn Fn(&str) -> String) -> Vec<Value> {
        let mut list = Vec::new();
        let mut place = Place::default();
        for row in &self.rows {
            place.new_line();
            let head = place.take(COLUMNS, 1);
            let id = place.id;
            let mut panels: Vec<Value> = Vec::new();
            for panel in &row.panels {
                let (width, height) = panel.size();
                let at = place.take(width, height);
                panels.push(panel.model(place.id, &at, narrow));
            }
            let (inside, beside) =
                if row.collapsed { (panels, Vec::new()) } else { (Vec::new(), panels) };
            list.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": row.collapsed, "gridPos": head,
                "panels": inside,
            }));
            list.extend(beside);
        }
        list
    }
}

/// Position of the next panel.
#[derive(Debug, Default)]
struct Place {
    x: u32,
    y: u32,
    /// Height of the highest panel on this line.
    height: u32,
    id: u32,
}

impl Place {
    fn new_line(&mut self) {
        (self.x, self.y, self.height) = (0, self.y + self.height, 0);
    }

    fn take(&mut self, width: u32, height: u32) -> Value {
        if COLUMNS < self.x + width {
            self.new_line();
        }
        let at = json!({"x": self.x, "y": self.y, "w": width, "h": height});
        self.x += width;
        self.height = self.height.max(height);
        self.id += 1;
        at
    }
}

#[cfg(test)]
mod tests;
