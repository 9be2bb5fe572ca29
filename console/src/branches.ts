/** The checkpoints of a thread as a tree: which lines there are, where they part, and which one is shown. */

export interface CheckpointRow {
  checkpoint_id: string;
  parent_id: string | null;
  created_at: string | null;
  source: string;
  step: number;
  run_id: string | null;
  next: string[];
}

export interface Fork {
  /** The checkpoint after which the lines part, or null if they have no common beginning. */
  parent_id: string | null;
  /** The first checkpoint of each line, the oldest first. */
  children: string[];
  /** The index in `children` of the line that is shown. */
  shown: number;
}

export class CheckpointTree {
  readonly rows = new Map<string, CheckpointRow>();
  private readonly childIds = new Map<string | null, string[]>();

  /** `rows` in any order. A row whose parent is not among them is a root. */
  constructor(rows: Iterable<CheckpointRow>) {
    for (const row of rows) this.rows.set(row.checkpoint_id, row);
    // Ids of checkpoints sort by time, so the children of each are in the order in which they were made.
    for (const id of [...this.rows.keys()].sort()) {
      const parent = this.parentOf(id);
      const siblings = this.childIds.get(parent);
      if (siblings) siblings.push(id);
      else this.childIds.set(parent, [id]);
    }
  }

  /** The parent, or null if there is none or it was not loaded. */
  parentOf(id: string): string | null {
    const parent = this.rows.get(id)?.parent_id ?? null;
    return parent !== null && this.rows.has(parent) ? parent : null;
  }

  /** Ids of checkpoints sort by time, so the newest is the greatest. Null if the tree is empty. */
  newest(): string | null {
    let newest: string | null = null;
    for (const id of this.rows.keys()) if (newest === null || id > newest) newest = id;
    return newest;
  }

  children(id: string | null): string[] {
    return this.childIds.get(id) ?? [];
  }

  /** The newest checkpoint that comes from this one, or the checkpoint itself. */
  newestLeaf(id: string): string {
    let newest = id;
    const open = [id];
    for (let each = open.pop(); each !== undefined; each = open.pop()) {
      if (each > newest) newest = each;
      open.push(...this.children(each));
    }
    return newest;
  }

  /** From the first checkpoint to this one. */
  path(leaf: string | null): string[] {
    const path: string[] = [];
    const seen = new Set<string>();
    // `seen` ends a circle, which a copied or damaged thread could have.
    for (let id = leaf; id !== null && this.rows.has(id) && !seen.has(id); id = this.parentOf(id)) {
      seen.add(id);
      path.push(id);
    }
    return path.reverse();
  }

  /** The places on the path to this leaf where another line parts from it. */
  forks(leaf: string | null): Fork[] {
    const forks: Fork[] = [];
    let parent: string | null = null;
    for (const id of this.path(leaf)) {
      const children = this.children(parent);
      if (children.length > 1) forks.push({ parent_id: parent, children, shown: children.indexOf(id) });
      parent = id;
    }
    return forks;
  }

  /** The checkpoint from which an input is given again so that it takes the place of the one that made `id`.
   *
   * The first input of a thread has nothing before it. A run from its own checkpoint with a new input replaces it.
   */
  beforeInput(id: string): string | null {
    let input: string | null = id;
    while (input !== null && this.rows.get(input)?.source !== "input") input = this.parentOf(input);
    return input === null ? null : (this.parentOf(input) ?? input);
  }
}

/** The first element for which `isReached` holds, if it holds for all after it too. Asks about log2(n) of them. */
export async function firstReached<T>(items: T[], isReached: (item: T) => Promise<boolean>): Promise<T | null> {
  let low = 0;
  let high = items.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (await isReached(items[middle] as T)) high = middle;
    else low = middle + 1;
  }
  return items[low] ?? null;
}
