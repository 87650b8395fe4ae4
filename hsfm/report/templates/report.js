"use strict";

document.documentElement.classList.add("js");

// Tables that sort ---------------------------------------------------------------------------------------------------

function sortKey(cell) {
  const text = cell.textContent.trim();
  if (cell.dataset.order !== undefined) {
    return Number(cell.dataset.order);
  }
  const number = text.replaceAll(",", "").match(/^[+-]?\d+(\.\d+)?/);
  return number === null ? text : Number(number[0]);
}

function isEmpty(key) {
  return key === "" || key === "-" || Number.isNaN(key);
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") {
    return a - b;
  }
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

// What is empty comes last, whichever way; rows that are equal keep their order.
function sorted(rows, column, direction) {
  const keyed = rows.map((row) => [sortKey(row.cells[column]), row]);
  const full = keyed.filter(([key]) => !isEmpty(key)).sort(([a], [b]) => direction * compare(a, b));
  return [...full, ...keyed.filter(([key]) => isEmpty(key))].map(([, row]) => row);
}

function makeSortable(table) {
  const body = table.tBodies[0];
  const first = [...body.rows];
  const heads = [...table.tHead.rows[0].cells].filter((head) => !head.classList.contains("reproduce"));
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.setAttribute("aria-sort", "none");
    // of numbers the highest come first
    const ways = head.classList.contains("number") ? ["descending", "ascending"] : ["ascending", "descending"];
    button.addEventListener("click", () => {
      const next = [...ways, "none"][(ways.indexOf(head.getAttribute("aria-sort")) + 1) % 3];
      heads.forEach((other) => other.setAttribute("aria-sort", "none"));
      head.setAttribute("aria-sort", next);
      body.append(...(next === "none" ? first : sorted(first, column, next === "ascending" ? 1 : -1)));
      const name = button.textContent;
      say(next === "none" ? `${name}: first order` : `Sorted by ${name}, ${next}`);
    });
  });
}

// Copying --------------------------------------------------------------------------------------------------------------

function say(text) {
  document.getElementById("said").textContent = text;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // a browser that gives files no clipboard
    const area = document.createElement("textarea");
    area.value = text;
    (document.querySelector("dialog[open]") ?? document.body).append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

function makeCopy(button) {
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copies);
    if (await copy(source.textContent)) {
      button.textContent = "Copied";
      say("Copied");
    } else {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected; press Ctrl+C";
    }
    setTimeout(() => (button.textContent = label), 2000);
  });
}

// Dialogs: Escape, the button or a click beside them closes them, and the focus goes back -------------------------------

function makeDialog(dialog) {
  dialog.querySelector(".close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) {
      dialog.close();
    }
  });
}

function enlarge(button) {
  const dialog = document.getElementById("enlarged");
  const picture = button.querySelector("img");
  const image = dialog.querySelector("img");
  image.src = picture.src;
  image.alt = picture.alt;
  image.width = picture.naturalWidth;
  image.height = picture.naturalHeight;
  document.getElementById("enlarged-title").textContent = button.closest("figure").previousElementSibling.textContent;
  dialog.showModal();
}

function showCommand(button) {
  document.getElementById("command-text").textContent = button.dataset.command;
  document.getElementById("command").showModal();
}

document.querySelectorAll("figure.table table").forEach(makeSortable);
document.querySelectorAll("button.copy").forEach(makeCopy);
document.querySelectorAll("dialog").forEach(makeDialog);
document.querySelectorAll("button.enlarge").forEach((button) => button.addEventListener("click", () => enlarge(button)));
document.querySelectorAll("button.reproduce").forEach((button) => {
  button.addEventListener("click", () => showCommand(button));
});
