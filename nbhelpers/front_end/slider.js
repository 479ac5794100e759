// The front end of slider.py: a browser's own range input, which has a name and answers to arrow keys.

function render({ model, el }) {
  const root = document.createElement("label");
  const input = document.createElement("input");
  const shown = document.createElement("output");
  root.className = "nbh-slider";
  input.dataset.lmSuppressShortcuts = "true"; // arrow keys would go to another cell
  Object.assign(input, { type: "range", min: 0, max: model.get("most"), step: 0.01 });

  function show() {
    input.value = model.get("value");
    shown.textContent = `${Math.round(100 * input.value)}%`;
    input.setAttribute("aria-valuetext", shown.textContent);
  }

  input.addEventListener("input", () => {
    model.set("value", Number(input.value));
    model.save_changes();
  });
  model.on("change:value", show);
  show();
  root.append(model.get("label"), input, shown);
  el.append(root);
  return () => model.off("change:value", show);
}

export default { render };
