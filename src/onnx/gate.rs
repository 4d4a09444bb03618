//! The safety gate: what a model file must not contain. It runs before any runtime sees the bytes.
//!
//! Runtimes trust counts, open paths to other files and allocate what a shape claims. The gate visits every place where
//! a tensor or a graph may hide (initializers, sparse ones, attributes, subgraphs, functions, training graphs), stores
//! no more than a few names, and stops at the first thing that no real detector has.

use super::error::{GateError, OnnxError, limit};
use super::messages::{Function, Kind, Message, field};
use super::protobuf::{Fields, Slice, Value};
use super::tensor::{MAX_FIELDS, Product, tensor_facts};

/// Bytes of one model, external data included: an edge box has a few GiB of memory.
pub(crate) const MAX_FILE: u64 = 1 << 30;
/// Graphs inside of graphs (`If`, `Loop`): real exports stay below five.
const MAX_DEPTH: u32 = 16;
/// Nodes of all graphs: real detectors stay below five thousand.
const MAX_NODES: usize = 100_000;
/// Tensors of all graphs.
const MAX_TENSORS: usize = 100_000;
const MAX_FUNCTIONS: usize = 1000;

/// What the manifest allows.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Policy<'a> {
    /// Tensor data may lie in other files of the model's folder.
    pub(crate) external_data: bool,
    /// Operator domains besides ONNX' own.
    pub(crate) domains: &'a [String],
}

/// Checks the whole file, and returns how many tensors have their data in other files.
pub(crate) fn inspect(bytes: &[u8], policy: Policy<'_>) -> Result<usize, GateError> {
    let mut walk = Walk { policy, functions: Vec::new(), nodes: 0, tensors: 0, fields: 0, external: 0 };
    let model = Slice { data: bytes, at: 0 };
    let mut fields = model.fields();
    while let Some((field, value)) = fields.next()? {
        if let (Value::Bytes(function), Some(Kind::Function)) = (value, Kind::Model.part(field)) {
            if walk.functions.len() >= MAX_FUNCTIONS {
                return Err(limit("functions", MAX_FUNCTIONS));
            }
            walk.functions.push(Function::decode(function.data).map_err(OnnxError::from)?.domain);
        }
    }
    walk.message(model, Kind::Model, 0)?;
    Ok(walk.external)
}

struct Walk<'p> {
    policy: Policy<'p>,
    /// Domains of the model's own functions: their bodies are in the file.
    functions: Vec<String>,
    nodes: usize,
    tensors: usize,
    fields: usize,
    external: usize,
}

impl Walk<'_> {
    fn next<'a>(&mut self, fields: &mut Fields<'a>) -> Result<Option<(u32, Value<'a>)>, GateError> {
        self.fields += 1;
        if self.fields > MAX_FIELDS {
            return Err(limit("fields", MAX_FIELDS));
        }
        Ok(fields.next()?)
    }

    /// `depth` counts the graphs around the message.
    fn message(&mut self, body: Slice<'_>, kind: Kind, depth: u32) -> Result<(), GateError> {
        match kind {
            Kind::Tensor => return self.tensor(body),
            Kind::Sparse => return self.sparse(body),
            Kind::Value => return self.value(body),
            Kind::Node => self.node(body)?,
            Kind::Graph if depth >= MAX_DEPTH => {
                return Err(limit("levels of nested graphs", MAX_DEPTH as usize));
            }
            _ => {}
        }
        let depth = depth + u32::from(matches!(kind, Kind::Graph | Kind::Function | Kind::Training));
        let mut fields = body.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            if let (Value::Bytes(part), Some(inner)) = (value, kind.part(field)) {
                self.message(part, inner, depth)?;
            }
        }
        Ok(())
    }

    /// Counts the node and checks the domain of its operator.
    fn node(&mut self, node: Slice<'_>) -> Result<(), GateError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(limit("nodes", MAX_NODES));
        }
        let (mut op, mut domain) = (None, None);
        let mut fields = node.fields();
        while let Some((field, value)) = fields.next()? {
            match (field, value) {
                (field::NODE_OP_TYPE, Value::Bytes(name)) => op = Some(name),
                (field::NODE_DOMAIN, Value::Bytes(name)) => domain = Some(name),
                _ => {}
            }
        }
        let Some(domain) = domain.map(Slice::text) else { return Ok(()) };
        let own = matches!(domain.as_str(), "" | "ai.onnx" | "ai.onnx.ml");
        if own || self.functions.contains(&domain) || self.policy.domains.contains(&domain) {
            return Ok(());
        }
        Err(GateError::Domain { op: op.map(Slice::text).unwrap_or_default(), domain })
    }

    fn sparse(&mut self, sparse: Slice<'_>) -> Result<(), GateError> {
        let mut dims = Product::default();
        let mut fields = sparse.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (value, Kind::Sparse.part(field)) {
                (Value::Bytes(tensor), Some(_)) => self.tensor(tensor)?,
                (value, _) if field == field::SPARSE_DIMS => dims.field(&value)?,
                _ => {}
            }
        }
        dims.check("of a sparse initializer").map(|_| ())
    }

    fn tensor(&mut self, tensor: Slice<'_>) -> Result<(), GateError> {
        self.tensors += 1;
        if self.tensors > MAX_TENSORS {
            return Err(limit("tensors", MAX_TENSORS));
        }
        let before = self.fields;
        let facts = tensor_facts(tensor, MAX_FIELDS.saturating_sub(before))?;
        self.fields = before + facts.fields;
        if facts.is_external() {
            self.external += 1;
            if !self.policy.external_data {
                return Err(GateError::External { tensor: facts.name() });
            }
        }
        facts.check()
    }

    /// An input, an output or a value in between: its shape.
    fn value(&mut self, value: Slice<'_>) -> Result<(), GateError> {
        let mut product = Product::default();
        let mut name = None;
        let mut fields = value.fields();
        while let Some((field, value)) = self.next(&mut fields)? {
            match (value, Kind::Value.part(field)) {
                (Value::Bytes(part), Some(inner)) => self.shape(part, inner, &mut product)?,
                (Value::Bytes(text), None) if field == field::VALUE_NAME => name = Some(text),
                _ => {}
            }
        }
        product.check(&name.map(Slice::text).unwrap_or_default()).map(|_| ())
    }

    /// Follows the type down to the lengths of the axes.
    fn shape(&mut self, body: Slice<'_>, kind: Kind, product: &mut Product) -> Result<(), GateError> {
        let mut fields = body.fields();
        if kind == Kind::Axis {
            product.axis()?;
        }
        while let Some((field, value)) = self.next(&mut fields)? {
            match (value, kind.part(field)) {
                (Value::Bytes(part), Some(inner)) => self.shape(part, inner, product)?,
                // Zero and negative lengths are how some exporters write "unknown".
                (Value::Varint(n), None)
                    if kind == Kind::Axis && field == field::AXIS_LENGTH && n > 0 && i64::try_from(n).is_ok() =>
                {
                    product.length(n);
                }
                _ => {}
            }
        }
        Ok(())
    }
}
