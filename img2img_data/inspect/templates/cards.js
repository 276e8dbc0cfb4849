// ------------------------------------------------------------------- pages of cards, state in the address
// The address ends with "#?" and the controls that are not at their defaults, so that a view can be shared.
const PER_PAGE = Number(document.querySelector(".gallery")?.dataset.size ?? 60);  // whole rows of 2 to 6 columns
let page = 1;
const stated = all("[data-state]");
const shown = (control) => control.value === (control.options?.[0].value ?? "") ? "" : control.selectedOptions?.[0].text ?? control.value;

function showPage(number) {
  pick();
  let pages = 1;
  for (const gallery of all(".gallery")) {
    const cards = all(".card:not([hidden])", gallery), size = PER_PAGE / all(".gallery").length;
    pages = Math.max(pages, Math.ceil(cards.length / size));
    page = clamp(number, 1, pages);
    cards.forEach((card, place) => { card.hidden = Math.floor(place / size) !== page - 1; });
  }
  for (const pager of all("[data-pager]")) {
    pager.hidden = pages === 1;
    pager.querySelector("[data-page]").textContent = `page ${page} of ${pages}`;
    all("[data-turn]", pager).forEach((button) => { button.disabled = page + Number(button.dataset.turn) !== clamp(page + Number(button.dataset.turn), 1, pages); });
  }
}

function turn(direction) {
  showPage(page + direction);
  writeState();
  document.querySelector("#images")?.scrollIntoView();
}

function writeState() {
  const state = new URLSearchParams(stated.map((control) => [control.dataset.state, shown(control)]).filter(([, value]) => value));
  if (page > 1) state.set("page", page);
  history.replaceState(null, "", state.size ? "#?" + state : "#");
}

function readState() {
  if (location.hash && !location.hash.startsWith("#?")) return;  // a section
  const state = new URLSearchParams(location.hash.slice(2));
  for (const control of stated) {
    const value = state.get(control.dataset.state) ?? "";
    if (control.options) control.selectedIndex = Math.max(0, [...control.options].findIndex((option) => option.text === value));
    else control.value = value;
  }
  const order = document.querySelector("[data-sort]");
  if (order) sort(order.value);
  showPage(Number(state.get("page")) || 1);
}

document.addEventListener("input", ({ target }) => {
  if (!target.matches("[data-state]")) return;
  showPage(1);
  writeState();
});
document.addEventListener("click", (event) => {
  const button = event.target.closest("button"), link = event.target.closest(".places a");
  if (button?.dataset.turn) turn(Number(button.dataset.turn));
  if (button?.matches("[data-reset]")) { showPage(1); writeState(); }
  if (link && location.hash.startsWith("#?")) {  // the state stays in the address
    event.preventDefault();
    document.querySelector(link.hash).scrollIntoView();
  }
});
document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  if (ctrlKey || metaKey || altKey || typing(target) || document.querySelector("dialog[open]")) return;
  if (key === "n") turn(1);
  if (key === "p") turn(-1);
});
addEventListener("hashchange", readState);
showPage(1);
readState();
