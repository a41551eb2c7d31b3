//! Reading what befalls the nodes.

use std::ops::Range;
use std::time::Duration;

use super::super::error::{PlanError, Problem, shorten};
use super::super::section::{Field, Key, Keys, Section};
use super::super::tree::Value;
use super::super::{Behaviour, Fault, FaultKind, Group, GroupId, Nodes, Part, SiteId};
use super::names::Names;
use super::{optional, or, required};

pub(in super::super) static EVENT: Keys = Keys {
    header: "[[event]]",
    about: "Trouble at a moment. Each has one of `kill`, `partition`, `slow`, `outage` and `malicious`.",
    parts: &[&[
        optional(
            "name",
            "a name",
            "what `--set` and sweeps call it; without one they use its number, from 0",
        ),
        or("at", "a time", "\"0s\"", "when it begins; not after the plan's end"),
        or("for", "a time above zero, or \"forever\"", "\"forever\"", "how long it lasts"),
        optional("kill", "nodes", "they end without a word, and start again when it has lasted"),
        optional(
            "partition",
            "a table with `a` and `b`, each nodes",
            "no packet passes between two parts",
        ),
        optional("slow", "nodes with a `rate`", "their links are slower"),
        optional(
            "outage",
            "\"edge\", \"dht\", or a table with `uplink`, the name of a site",
            "the edge answers nobody, provider searches find nothing, or a site is cut off",
        ),
        optional("malicious", "nodes with a `behaviour`", "they misbehave"),
    ]],
};

const CHOICE: &[Key] = &[
    optional("site", "the name of a site", "all nodes of a site; without `group`"),
    optional(
        "group",
        "the name of a group",
        "nodes of a group; all of them without one of the keys below",
    ),
    optional("share", "a number, 0 to 1", "this share of the group, drawn"),
    optional("count", "a whole number from 1", "this many of the group, drawn"),
    optional("nodes", "a string, as \"0-49\"", "those with these numbers, both included, from 0"),
];

pub(in super::super) static NODES: Keys = Keys {
    header: "nodes",
    about: "Chooses nodes. The string `\"runner\"` is short for `{ group = \"runner\" }`, and \
        `\"runner/0-49\"` for `{ group = \"runner\", nodes = \"0-49\" }`.",
    parts: &[CHOICE],
};
pub(in super::super) static SLOW: Keys = Keys {
    header: "event.slow",
    about: "Nodes, and what their links still carry.",
    parts: &[CHOICE, &[required("rate", "a rate", "up and down")]],
};
pub(in super::super) static MALICIOUS: Keys = Keys {
    header: "event.malicious",
    about: "Nodes, and what they do: `corrupt` serves wrong bytes; `stall` admits requests and sends nothing; \
        `false_have` says that it has every blob and has none; `full_filter` has a filter that says maybe to \
        everything; `empty_filter` has one that rules out what it holds; `false_provider` names itself a \
        provider of every blob in the DHT.",
    parts: &[CHOICE, &[required("behaviour", "one of the words above", "what they do")]],
};
pub(in super::super) static PARTITION: Keys = Keys {
    header: "event.partition",
    about: "Two parts between which no packet passes.",
    parts: &[&[required("a", "nodes", "one part"), required("b", "nodes", "the other")]],
};
pub(in super::super) static OUTAGE: Keys = Keys {
    header: "event.outage",
    about: "What is gone. A string, `\"edge\"` or `\"dht\"`, or this table.",
    parts: &[&[required(
        "uplink",
        "the name of a site",
        "the site that is cut off from the edge and all other sites",
    )]],
};

const BEHAVIOURS: &[(&str, Behaviour)] = &[
    ("corrupt", Behaviour::Corrupt),
    ("stall", Behaviour::Stall),
    ("false_have", Behaviour::FalseHave),
    ("full_filter", Behaviour::FullFilter),
    ("empty_filter", Behaviour::EmptyFilter),
    ("false_provider", Behaviour::FalseProvider),
];

/// Is what events refer to.
pub(super) struct Around<'a> {
    pub(super) duration: Duration,
    pub(super) groups: &'a [Group],
    pub(super) group_names: &'a Names,
    pub(super) site_names: &'a Names,
    pub(super) has_edge: bool,
    pub(super) has_dht: bool,
}

pub(super) fn events(
    field: Option<&Field<'_>>,
    around: &Around<'_>,
) -> Result<Vec<Fault>, PlanError> {
    let mut names = Names::new("events");
    let mut faults = Vec::new();
    for section in super::entries(field, &EVENT)? {
        if let Some(name) = section.optional("name")? {
            names.add(&name)?;
        }
        faults.push(fault(&section, around)?);
    }
    Ok(faults)
}

fn fault(section: &Section<'_>, around: &Around<'_>) -> Result<Fault, PlanError> {
    let at = section.field("at")?.time()?;
    if at > around.duration {
        let problem = "is after the plan's end, so it would never come; see `duration`";
        return Err(section.field("at")?.fail(Problem::Other(problem.to_owned())));
    }
    let lasts = section.field("for")?;
    let lasts = if lasts.is("forever") { None } else { Some(lasts.time_above_zero()?) };
    Ok(Fault { at, lasts, kind: kind(section, around)? })
}

fn kind(section: &Section<'_>, around: &Around<'_>) -> Result<FaultKind, PlanError> {
    let kinds = ["kill", "partition", "slow", "outage", "malicious"];
    let given: Vec<&'static str> = kinds.into_iter().filter(|kind| section.has(kind)).collect();
    let [kind] = given.as_slice() else {
        let found = if given.is_empty() { "none".to_owned() } else { given.join(" and ") };
        let problem = format!("needs one of {}; it has {found}", kinds.join(", "));
        return Err(section.fail(Problem::Other(problem)));
    };
    let field = section.field(kind)?;
    match *kind {
        "kill" => Ok(FaultKind::Kill { nodes: around.nodes(&field)? }),
        "partition" => {
            let section = field.section(&PARTITION)?;
            let [a, b] = [section.field("a")?, section.field("b")?];
            Ok(FaultKind::Partition { a: around.nodes(&a)?, b: around.nodes(&b)? })
        }
        "slow" => {
            let section = field.section(&SLOW)?;
            let rate = section.field("rate")?.rate()?;
            Ok(FaultKind::Slow { nodes: around.choice(&section)?, rate })
        }
        "malicious" => {
            let section = field.section(&MALICIOUS)?;
            let behaviour = section.field("behaviour")?.word("behaviour", BEHAVIOURS)?;
            Ok(FaultKind::Malicious { nodes: around.choice(&section)?, behaviour })
        }
        _ => around.outage(&field),
    }
}

impl Around<'_> {
    fn outage(&self, field: &Field<'_>) -> Result<FaultKind, PlanError> {
        if matches!(field.node.value, Value::Table(_)) {
            let section = field.section(&OUTAGE)?;
            let site = self.site_names.resolve(&section.field("uplink")?)?;
            return Ok(FaultKind::UplinkOutage { site: SiteId(site) });
        }
        let absent = |table| {
            field.fail(Problem::Other(format!(
                "the plan has no `{table}`, so there is none to lose"
            )))
        };
        match field.word("outage", &[("edge", true), ("dht", false)])? {
            true if self.has_edge => Ok(FaultKind::EdgeOutage),
            true => Err(absent("[edge]")),
            false if self.has_dht => Ok(FaultKind::DhtOutage),
            false => Err(absent("[dht]")),
        }
    }

    /// Reads nodes in their short or their long form.
    fn nodes(&self, field: &Field<'_>) -> Result<Nodes, PlanError> {
        let Value::Text(text) = &field.node.value else {
            return self.choice(&field.section(&NODES)?);
        };
        let (name, range) =
            text.split_once('/').map_or((text.as_str(), None), |(name, range)| (name, Some(range)));
        let group = self.group_names.find(name).map_err(|problem| field.fail(problem))?;
        let part = match range {
            Some(range) => Part::Indexes(self.range(field, range, group)?),
            None => Part::All,
        };
        Ok(Nodes::Group { group: GroupId(group), part })
    }

    /// Reads the keys that choose nodes.
    fn choice(&self, section: &Section<'_>) -> Result<Nodes, PlanError> {
        let other = |problem: &str| section.fail(Problem::Other(problem.to_owned()));
        let parts = ["share", "count", "nodes"];
        let given = parts.iter().filter(|key| section.has(key)).count();
        if let Some(site) = section.optional("site")? {
            if given > 0 || section.has("group") {
                return Err(other("`site` means all its nodes and goes with no other choice"));
            }
            return Ok(Nodes::Site(SiteId(self.site_names.resolve(&site)?)));
        }
        if given > 1 {
            return Err(other("takes one of `share`, `count` and `nodes`"));
        }
        let group = self.group_names.of(section, "group")?;
        Ok(Nodes::Group { group: GroupId(group), part: self.part(section, group)? })
    }

    fn part(&self, section: &Section<'_>, group: usize) -> Result<Part, PlanError> {
        if let Some(field) = section.optional("share")? {
            return field.real(0.0..=1.0).map(Part::Share);
        }
        if let Some(field) = section.optional("count")? {
            return field.count(1..=self.size(group)).map(Part::Count);
        }
        match section.optional("nodes")? {
            Some(field) => self.range(&field, field.text()?, group).map(Part::Indexes),
            None => Ok(Part::All),
        }
    }

    fn size(&self, group: usize) -> usize {
        self.groups.get(group).map_or(0, |group| group.count)
    }

    /// Reads numbers of a group's nodes, as `0-49` or `7`.
    fn range(
        &self,
        field: &Field<'_>,
        text: &str,
        group: usize,
    ) -> Result<Range<usize>, PlanError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let count = self.size(group);
        let number = |text: &str| text.parse::<usize>().ok().filter(|number| *number < count);
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Ok(first..last + 1),
            _ => {
                let allowed = format!("two rising numbers from 0 to below {count}, as \"0-1\"");
                Err(field.fail(Problem::out_of_bounds(format!("`{}`", shorten(text)), allowed)))
            }
        }
    }
}
