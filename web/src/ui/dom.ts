/** The few things that every part of the page does with elements. */

/** The element of `index.html` with this id, checked to be what the code takes it for. */
export function byId<T extends Element>(id: string, type: new () => T): T {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} #${id}`);
  return element;
}

/** Makes an element with a class and children. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  if (className !== "") element.className = className;
  element.append(...children);
  return element;
}

/** Sets the text only where it differs, so that screen readers and selections are left alone. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Shows short phrases as a list, made anew only where they differ. */
export function showFacts(id: string, facts: readonly string[]): void {
  const list = byId(id, HTMLUListElement);
  if (list.dataset["facts"] === facts.join()) return;
  list.dataset["facts"] = facts.join();
  list.replaceChildren(...facts.map((fact) => make("li", "", fact)));
}

/** True when the user asked for less movement. */
export function prefersStillness(): boolean {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
