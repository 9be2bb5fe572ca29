/** The layout of graphs, loaded with the first drawing. */

export { Graph, layout } from "@dagrejs/dagre";
