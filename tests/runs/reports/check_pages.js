// Of each page in a frame of this page: what a reader would miss. Results are written into the document as JSON.
const MOST = 12; // faults told of a page

function faults(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, found = [];
  page.querySelectorAll("details").forEach((one) => (one.open = true));
  const root = page.documentElement;
  if (root.scrollWidth > view.innerWidth) found.push(`is ${root.scrollWidth} px wide on a screen of ${view.innerWidth}`);
  for (const image of page.images) if (!image.naturalWidth) found.push(`image without pixels: ${image.alt}`);
  for (const box of page.querySelectorAll(".wide, figure"))
    if (box.scrollWidth > box.clientWidth + 1 && box.tabIndex !== 0)
      found.push(`scrolls, and not by keys: ${box.textContent.trim().slice(0, 40)}`);
  for (const picture of page.querySelectorAll("svg[viewBox]")) found.push(...outside(picture));
  for (const bar of page.querySelectorAll(".bar i, .bar em"))
    if (bar.textContent && bar.scrollWidth > bar.clientWidth + 1) found.push(`cut in its bar: ${bar.textContent}`);
  for (const text of page.querySelectorAll("h1, h2, h3, p, li, th, td, caption, figcaption, summary, .bars b, .bar i, .bar em"))
    if (text.textContent.trim()) found.push(...faint(text, view));
  return found.slice(0, MOST);
}

function outside(picture) {
  const edge = picture.viewBox.baseVal, found = [], boxes = [];
  for (const text of picture.querySelectorAll("text")) {
    const box = text.getBBox(), words = text.textContent;
    if (box.x < edge.x - 1 || box.y < edge.y - 2 || box.x + box.width > edge.x + edge.width + 1 ||
        box.y + box.height > edge.y + edge.height + 3)
      found.push(`leaves its picture: ${words}`);
    for (const [other, there] of boxes)
      if (Math.min(box.x + box.width, there.x + there.width) - Math.max(box.x, there.x) > 1 &&
          Math.min(box.y + box.height, there.y + there.height) - Math.max(box.y, there.y) > 5)
        found.push(`over each other: ${other} and ${words}`);
    boxes.push([words, box]);
  }
  return found;
}

function faint(text, view) {
  let below = text, back = [0, 0, 0, 0];
  for (; below && back[3] < 1; below = below.parentElement) back = rgba(view.getComputedStyle(below).backgroundColor);
  const [a, b] = [luminance(rgba(view.getComputedStyle(text).color)), luminance(back)];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  return contrast < 4.5 ? [`contrast of ${contrast.toFixed(1)}: ${text.textContent.trim().slice(0, 40)}`] : [];
}

function rgba(color) {
  const numbers = color.match(/[\d.]+(e-?\d+)?/g).map(Number);
  const scale = color.startsWith("color(") ? 1 : 255;
  return [...numbers.slice(0, 3).map((value) => value / scale), numbers[3] ?? 1];
}

function luminance([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

window.onload = () => {
  const found = Object.fromEntries([...document.querySelectorAll("iframe")].map((one) => [one.title, faults(one)]));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const pictures = [...document.querySelectorAll("body > img")].map((one) => [one.naturalWidth, one.naturalHeight]);
  document.getElementById("result").textContent = JSON.stringify({ found, dark, pictures });
};
