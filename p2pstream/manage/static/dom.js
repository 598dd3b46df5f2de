// Elements from values. Text becomes text nodes and nothing becomes markup, whatever it holds.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** h("a", {href: "#/", class: "x", onclick: f}, "text", node, [more]) -> an element */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** The same for SVG. */
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/** Sets a text where it differs; the DOM is not touched where it does not. */
export function text(element, value) {
  const wanted = String(value ?? "");
  const node = element.firstChild;
  if (node?.nodeType === Node.TEXT_NODE && element.childNodes.length === 1) {
    if (node.data !== wanted) node.data = wanted;
  } else if (wanted || node) {
    element.textContent = wanted;
  }
}

/** Sets, or with null removes, an attribute where it differs. */
export function attr(element, name, value) {
  if (value === null || value === undefined || value === false) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) {
    element.setAttribute(name, value);
  }
}

/** Draws anew only when the signature of what is shown has changed. */
export function draw(element, signature, make) {
  const key = typeof signature === "string" ? signature : JSON.stringify(signature);
  if (element.drawn === key) return false;
  element.drawn = key;
  element.replaceChildren(...[make()].flat(Infinity).filter(Boolean));
  return true;
}

/** Calls at most once a frame, with the newest arguments. */
export function perFrame(work) {
  let asked = 0;
  let latest = [];
  return (...given) => {
    latest = given;
    asked ||= requestAnimationFrame(() => {
      asked = 0;
      work(...latest);
    });
  };
}
