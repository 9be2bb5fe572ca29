/** A component that is rendered again only if its properties differ. Preact has this in its 4 kB larger `compat`. */

import { Component, h, type ComponentType, type VNode } from "preact";

export function memo<P extends object>(inner: ComponentType<P>, isSame: (before: P, after: P) => boolean): ComponentType<P> {
  return class Memo extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      return !isSame(this.props as P, next);
    }
    override render(): VNode {
      return h(inner as ComponentType<object>, this.props as object) as VNode;
    }
  } as unknown as ComponentType<P>;
}
