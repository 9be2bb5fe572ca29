/** The graph of an assistant as a drawing: the running node lit, the nodes that ran counted. */

import { useEffect, useRef, useState } from "preact/hooks";
import { get, type Assistant } from "./api.ts";
import { Problem, useLoaded } from "./ui.tsx";
import { words } from "./words.ts";

export interface GraphDrawing {
  nodes: { id: string; data?: { name?: string } }[];
  edges: { source: string; target: string; conditional?: boolean; data?: string }[];
}

interface Layout {
  width: number;
  height: number;
  nodes: { id: string; label: string; x: number; y: number; width: number; height: number }[];
  edges: { source: string; target: string; isConditional: boolean; points: { x: number; y: number }[] }[];
}

const HEIGHT = 30;

async function layoutOf(drawing: GraphDrawing): Promise<Layout> {
  // Loaded with the first drawing, because the layout is large.
  const { Graph, layout } = await import("./dagre.ts");
  // Two nodes may have several edges between them, one for each condition.
  const graph = new Graph({ multigraph: true });
  graph.setGraph({ rankdir: "TB", nodesep: 26, ranksep: 34, marginx: 8, marginy: 8 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const node of drawing.nodes) graph.setNode(node.id, { width: Math.max(56, labelOf(node.id).length * 7.6 + 40), height: HEIGHT });
  drawing.edges.forEach((edge, index) => graph.setEdge(edge.source, edge.target, { isConditional: edge.conditional === true }, String(index)));
  layout(graph);
  const size = graph.graph();
  return {
    width: size.width ?? 0,
    height: size.height ?? 0,
    nodes: graph.nodes().map((id: string) => ({ id, label: labelOf(id), ...(graph.node(id) as { x: number; y: number; width: number; height: number }) })),
    edges: graph.edges().map((edge: { v: string; w: string }) => ({ source: edge.v, target: edge.w, ...(graph.edge(edge) as { isConditional: boolean; points: { x: number; y: number }[] }) })),
  };
}

function labelOf(id: string): string {
  const name = id.replace(/^__(\w+)__$/, "$1");
  return name.length > 28 ? `${name.slice(0, 27)}…` : name;
}

interface GraphProps {
  assistant: Assistant;
  counts: Map<string, number>;
  liveNode: string | null;
  hasFailed: boolean;
  onNode: (node: string) => void;
}

export function GraphView({ assistant, counts, liveNode, hasFailed, onNode }: GraphProps) {
  const loaded = useLoaded(async () => layoutOf(await get<GraphDrawing>(`/assistants/${assistant.assistant_id}/graph?xray=1`)), assistant.assistant_id);
  const svg = useRef<SVGSVGElement>(null);
  const [isOpen, setOpen] = useState(true);
  useEffect(() => svg.current?.querySelector(".node.lit")?.scrollIntoView({ block: "nearest", inline: "nearest" }), []);
  if (loaded.error) return <Problem error={loaded.error} again={loaded.again} />;
  if (!loaded.value) return null;
  const { width, height, nodes, edges } = loaded.value;
  return (
    <details class="graph" open={isOpen} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{words.graph}</summary>
      <div class="graph-scroll">
        <svg ref={svg} xmlns="http://www.w3.org/2000/svg" viewBox={`0 0 ${width} ${height}`} width={width} height={height} role="group" aria-label={words.graph}>
          {edges.map((edge, index) => (
            <g key={index}>
              <path class={`edge ${edge.isConditional ? "conditional" : ""}`} fill="none" stroke="currentColor" stroke-dasharray={edge.isConditional ? "4 3" : undefined} d={pathOf(edge.points)} />
              <Arrow points={edge.points} />
            </g>
          ))}
          {nodes.map((node) => {
            const count = counts.get(node.id) ?? 0;
            const isLit = liveNode === node.id;
            return (
              <g key={node.id} class={`node ${isLit ? "lit" : ""} ${count > 0 ? "ran" : ""} ${hasFailed && count === 0 ? "" : ""}`} role="button" tabIndex={count > 0 ? 0 : -1} aria-label={words.nodeRan(node.label, count)}
                onClick={() => onNode(node.id)} onKeyDown={(event) => { if (event.key === "Enter") onNode(node.id); }}>
                <rect x={node.x - node.width / 2} y={node.y - node.height / 2} width={node.width} height={node.height} rx={node.id.startsWith("__") ? 15 : 6} />
                <text x={node.x} y={node.y + 4.5} text-anchor="middle" font-family="system-ui, sans-serif" font-size="13">{node.label}{count > 1 ? ` ×${count}` : ""}</text>
              </g>
            );
          })}
        </svg>
      </div>
      <button type="button" class="quiet" onClick={() => svg.current && download(svg.current, `${assistant.graph_id}.svg`)}>{words.exportSvg}</button>
      <details>
        <summary>{words.asTable}</summary>
        <table><thead><tr><th>{words.from}</th><th>{words.to}</th></tr></thead><tbody>{edges.map((edge, index) => <tr key={index}><td>{labelOf(edge.source)}</td><td>{labelOf(edge.target)}{edge.isConditional ? ` (${words.conditional})` : ""}</td></tr>)}</tbody></table>
      </details>
    </details>
  );
}

function pathOf(points: { x: number; y: number }[]): string {
  const [first, ...rest] = points;
  if (!first) return "";
  let path = `M${first.x},${first.y}`;
  rest.forEach((point, index) => {
    const next = rest[index + 1];
    path += next ? ` Q${point.x},${point.y} ${(point.x + next.x) / 2},${(point.y + next.y) / 2}` : ` L${point.x},${point.y}`;
  });
  return path;
}

function Arrow({ points }: { points: { x: number; y: number }[] }) {
  const end = points.at(-1);
  const before = points.at(-2);
  if (!end || !before) return null;
  const angle = (Math.atan2(end.y - before.y, end.x - before.x) * 180) / Math.PI;
  return <path d="M0,0 L-7,-3.5 L-7,3.5 Z" fill="currentColor" transform={`translate(${end.x},${end.y}) rotate(${angle})`} />;
}

/** Saves the drawing as a file, with the colours that it has on the page. */
function download(svg: SVGSVGElement, name: string): void {
  const copied = svg.cloneNode(true) as SVGSVGElement;
  const originals = svg.querySelectorAll("rect, text, path");
  copied.querySelectorAll("rect, text, path").forEach((element, index) => {
    const style = getComputedStyle(originals[index] as Element);
    // The file has no style sheet, so its colours must be attributes.
    element.setAttribute("fill", style.fill);
    element.setAttribute("stroke", style.stroke);
  });
  saveFile(new XMLSerializer().serializeToString(copied), name, "image/svg+xml");
}

export function saveFile(content: string, name: string, type: string): void {
  const address = URL.createObjectURL(new Blob([content], { type }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  URL.revokeObjectURL(address);
}
