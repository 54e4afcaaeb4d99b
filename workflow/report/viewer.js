// The slice viewer: planes lie one below the other in a picture of each layer, behind a pane that shows one of them.
for (const viewer of document.querySelectorAll(".viewer")) {
  const stage = viewer.querySelector(".stage"), outer = stage.firstElementChild, pane = viewer.querySelector(".pane");
  const tools = viewer.querySelector(".tools"), slider = tools.querySelector("input[type=range]");
  const images = [...pane.children], planes = viewer.dataset.planes.split(" ").map(Number);
  const wide = pane.width.baseVal.value, high = pane.height.baseVal.value;
  let plane = planes.length >> 1, zoom = 1, left = 0, top = 0, turned = 0;

  const limited = (value, most) => Math.min(Math.max(value, 0), most);
  const draw = () => {
    left = limited(left, wide - wide / zoom);
    top = limited(top, high - high / zoom);
    pane.setAttribute("viewBox", `${left} ${top} ${wide / zoom} ${high / zoom}`);
    for (const image of images) image.setAttribute("y", -plane * high);
    if (slider) {
      slider.value = plane;
      tools.querySelector("output").value = `${planes[plane] + 1} of ${viewer.dataset.depth}`;
    }
    stage.style.touchAction = zoom > 1 ? "none" : "pan-y";
    stage.classList.toggle("zoomed", zoom > 1);
  };
  const turn = by => { plane = limited(plane + by, planes.length - 1); draw(); };
  // A factor of 0 shows the whole plane; what lies at x, y of the pane stays there.
  const enlarge = (by, x = wide / 2, y = high / 2) => {
    const next = by ? Math.min(Math.max(zoom * by, 1), 16) : 1;
    left += x / zoom - x / next;
    top += y / zoom - y / next;
    zoom = next;
    draw();
  };
  const place = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(outer.getScreenCTM().inverse());

  slider?.addEventListener("input", () => { plane = Number(slider.value); draw(); });
  for (const box of tools.querySelectorAll("input[type=checkbox]")) {
    const image = pane.querySelector(`.${box.value}`);
    const toggle = () => image.setAttribute("display", box.checked ? "inline" : "none");
    box.addEventListener("change", toggle);
    toggle(); // browsers keep the boxes of a page that is loaded again
  }
  for (const button of tools.querySelectorAll("button")) {
    button.addEventListener("click", () => enlarge(Number(button.value)));
  }

  stage.addEventListener("keydown", event => {
    const turns = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, PageDown: 5, PageUp: -5, Home: -1e6, End: 1e6};
    const zooms = {"+": 2, "=": 2, "-": 0.5, "0": 0};
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in turns && planes.length > 1) turn(turns[event.key]);
    else if (event.key in zooms) enlarge(zooms[event.key]);
    else return;
    event.preventDefault();
  });
  // The page scrolls on over a viewer that was not chosen.
  stage.addEventListener("wheel", event => {
    const zooms = event.ctrlKey || event.metaKey;
    if (!zooms && (document.activeElement !== stage || planes.length === 1)) return;
    event.preventDefault();
    turned += event.deltaY * (event.deltaMode ? 40 : 1);
    if (Math.abs(turned) < 40) return;
    const {x, y} = place(event);
    if (zooms) enlarge(turned < 0 ? 1.25 : 0.8, x, y);
    else turn(Math.sign(turned));
    turned = 0;
  }, {passive: false});

  let held = null;
  stage.addEventListener("pointerdown", event => {
    if (zoom === 1 || event.button) return;
    held = place(event);
    stage.setPointerCapture(event.pointerId);
  });
  stage.addEventListener("pointermove", event => {
    if (!held) return;
    const now = place(event);
    left -= (now.x - held.x) / zoom;
    top -= (now.y - held.y) / zoom;
    held = now;
    draw();
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { held = null; });
  stage.addEventListener("dblclick", event => { const {x, y} = place(event); enlarge(2, x, y); });

  tools.hidden = false;
  draw();
}
