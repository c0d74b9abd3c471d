//! Grafana dashboards, built from typed parts: panels, the metrics that they draw, and the units.
//!
//! The output is Grafana's classic model, which provisioning by files and `ConfigMaps` uses and every
//! Grafana since 10 reads. This is deliberately no general Grafana library: it has only the panels and
//! variables that the dashboards use, in the way that readers of dashboards expect. A panel must have a
//! title, a description and a unit.

mod panel;
mod query;

use serde_json::{Value, json};

pub use self::{
    panel::{Kind, Panel, Step, Unit},
    query::{Query, Series},
};

/// Schema version of the output. Newer Grafanas migrate the model when they load it.
const SCHEMA_VERSION: u32 = 41;
/// Width of a dashboard in columns.
const COLUMNS: u32 = 24;

/// Data source of every panel: the one that the reader chose.
fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// A dashboard with the variables `datasource`, `cluster`, `namespace`, `job` and `instance`.
#[derive(Clone, Debug)]
pub struct Dashboard {
    uid: &'static str,
    title: &'static str,
    description: &'static str,
    tags: Vec<&'static str>,
    identity: &'static str,
    annotations: Vec<Annotation>,
    rows: Vec<Row>,
}

/// Annotation that is marked on every panel with a time axis.
#[derive(Clone, Debug)]
struct Annotation {
    name: &'static str,
    query: Query,
    title: &'static str,
}

/// Row of panels under a heading.
#[derive(Clone, Debug)]
pub struct Row {
    title: &'static str,
    collapsed: bool,
    panels: Vec<Panel>,
}

impl Row {
    /// Creates a row whose panels are shown at once.
    pub fn open(title: &'static str, panels: Vec<Panel>) -> Self {
        Self { title, collapsed: false, panels }
    }

    /// Creates a row whose panels are shown, and queried, when the row is opened.
    pub fn collapsed(title: &'static str, panels: Vec<Panel>) -> Self {
        Self { title, collapsed: true, panels }
    }
}

impl Dashboard {
    /// Creates an empty dashboard. The `uid` must never change: links contain it. `identity` is a metric
    /// that every target exports: its labels are the choices of the variables.
    pub fn new(
        uid: &'static str,
        title: &'static str,
        description: &'static str,
        identity: &'static str,
    ) -> Self {
        Self {
            uid,
            title,
            description,
            tags: Vec::new(),
            identity,
            annotations: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Name of the dashboard in links, and of its file.
    pub fn uid(&self) -> &'static str {
        self.uid
    }

    /// Adds a tag to the dashboard.
    #[must_use]
    pub fn tag(mut self, tag: &'static str) -> Self {
        self.tags.push(tag);
        self
    }

    /// Adds a mark wherever the query has a value; `title` may name labels as `{{label}}`.
    #[must_use]
    pub fn annotation(mut self, name: &'static str, query: Query, title: &'static str) -> Self {
        self.annotations.push(Annotation { name, query, title });
        self
    }

    /// Adds a row below the others.
    #[must_use]
    pub fn row(mut self, row: Row) -> Self {
        self.rows.push(row);
        self
    }

    /// JSON model that Grafana reads.
    pub fn to_json(&self) -> Value {
        json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": self.tags,
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
            "links": [],
            "annotations": {"list": self.annotations.iter().map(Annotation::to_json).collect::<Vec<_>>()},
            "templating": {"list": self.variables()},
            "panels": self.laid_out(),
        })
    }

    fn variables(&self) -> Vec<Value> {
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
            "current": {}, "hide": 0, "includeAll": false, "multi": false, "options": [], "refresh": 1,
            "regex": "",
        });
        let mut list = vec![source];
        let mut chosen: Vec<String> = Vec::new();
        for (name, label) in query::VARIABLES {
            let definition =
                format!("label_values({}{{{}}}, {name})", self.identity, chosen.join(", "));
            list.push(json!({
                "name": name, "label": label, "type": "query", "datasource": datasource(),
                "definition": definition,
                "query": {"query": definition, "refId": format!("{name}Variable")},
                "current": {"text": ["All"], "value": ["$__all"]},
                // "All" must match targets without the label, too.
                "allValue": ".*", "includeAll": true, "multi": true,
                // Hidden: only a Prometheus with several Kubernetes clusters needs the variable.
                "hide": if name == "cluster" { 2 } else { 0 },
                "options": [], "refresh": 2, "regex": "", "sort": 1,
            }));
            chosen.push(query::chosen(name));
        }
        list
    }

    /// Lays out the panels from left to right and the rows from top to bottom.
    fn laid_out(&self) -> Vec<Value> {
        let mut list = Vec::new();
        let mut place = Place::default();
        for row in &self.rows {
            place.new_line();
            let head = place.take(COLUMNS, 1);
            let id = place.id;
            let panels: Vec<Value> = row
                .panels
                .iter()
                .map(|panel| {
                    let (width, height) = panel.size();
                    let at = place.take(width, height);
                    panel.to_json(place.id, &at)
                })
                .collect();
            let (inside, beside) =
                if row.collapsed { (panels, Vec::new()) } else { (Vec::new(), panels) };
            list.push(json!({
                "id": id, "type": "row", "title": row.title, "collapsed": row.collapsed,
                "gridPos": head, "panels": inside,
            }));
            list.extend(beside);
        }
        list
    }
}

impl Annotation {
    fn to_json(&self) -> Value {
        json!({
            "name": self.name, "datasource": datasource(), "enable": true, "hide": false,
            "iconColor": "purple", "expr": self.query.as_str(), "step": "30s",
            "titleFormat": self.title, "textFormat": "",
        })
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
