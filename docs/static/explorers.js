// Two explorers that need no kernel: free maps under Equation 1, and how saturation hides a gradient.
// What they compute is checked against the package in tests/workbook/test_browser.py.
"use strict";

const topgap = (() => {
  const CLASSES = 8, SIDE = 6, POSITIONS = SIDE * SIDE;
  const READINGS = { mean: 1 / (CLASSES * POSITIONS), positions: 1 / POSITIONS, sum: 1 };

  // ---- Equation 1 on free maps -----------------------------------------------------------------

  /** The minimum of Equation 1, as `topgap_nb.optimum` has it. */
  function optimum(k, lambda, reading) {
    const price = lambda * READINGS[reading], chance = 1 - 1 / CLASSES;
    const residual = Math.min(price * k, chance);
    const value = residual < chance
      ? Math.max(0, Math.log((CLASSES - 1) * (1 - residual) / residual)) : 0;
    return { residual, value, loss: -Math.log1p(-residual) + price * k * value };
  }

  /** Indices of the k largest values, largest first. */
  function winners(map, k) {
    return [...map.keys()].sort((a, b) => map[b] - map[a]).slice(0, k);
  }

  function pooled(map, k) {
    return winners(map, k).reduce((sum, i) => sum + map[i], 0) / k;
  }

  /** Equation 1 for one image: the true class's map, and the map that each other class has. */
  function state(truth, other, k, lambda, reading) {
    const price = lambda * READINGS[reading];
    const yes = pooled(truth, k), no = pooled(other, k);
    const absolute = (map) => map.reduce((sum, x) => sum + Math.abs(x), 0);
    const highest = Math.max(yes, no);
    const total = Math.exp(yes - highest) + (CLASSES - 1) * Math.exp(no - highest);
    const p = Math.exp(yes - highest) / total;
    const crossEntropy = Math.log(total) + highest - yes;
    const l1 = price * (absolute(truth) + (CLASSES - 1) * absolute(other));
    return { price, yes, no, p, crossEntropy, l1, loss: crossEntropy + l1 };
  }

  /** One step of gradient descent on cross-entropy, then the step of the l1 term, which stops at 0. */
  function step(truth, other, k, lambda, reading) {
    const now = state(truth, other, k, lambda, reading), rate = 2 * k;
    const lifted = [[truth, (1 - now.p) / k], [other, -(1 - now.p) / (CLASSES - 1) / k]];
    for (const [map, lift] of lifted) {
      for (const i of winners(map, k)) map[i] += rate * lift;
      for (const i of map.keys()) {
        map[i] = Math.sign(map[i]) * Math.max(0, Math.abs(map[i]) - rate * now.price);
      }
    }
  }

  // ---- Cross-entropy in single precision ---------------------------------------------------------

  /** Cross-entropy of two logits that differ by `gap`, and its slope in the gap, in float32. */
  function singlePrecision(gap) {
    const f = Math.fround, wide = f(Math.abs(gap));
    const rest = f(Math.log(f(1 + f(Math.exp(-wide)))));
    const [yes, no] = gap >= 0 ? [f(-rest), f(-wide - rest)] : [f(-wide - rest), f(-rest)];
    return { loss: -yes || 0, slope: (f(f(Math.exp(yes)) - 1) - f(Math.exp(no))) / 2 };
  }

  const BREAKS = 0.6, STEPS = 20;
  /** How far the true logit lies above the other, after a share t of the attack's budget. */
  const margin = (t) => 1 - t / BREAKS;

  /** Where signed steps end that follow a loss; without a slope they stay. */
  function walk(slopeAt, start) {
    const path = [start];
    for (let i = 0; i < STEPS; i++) {
      const t = path.at(-1) + Math.sign(slopeAt(path.at(-1))) * 1.5 / STEPS;
      path.push(Math.min(1, Math.max(0, t)));
    }
    return path;
  }
  const alongEntropy = (scale) => walk(
    (t) => singlePrecision(scale * margin(t)).slope * -scale / BREAKS, 0);
  const alongMargin = () => walk(() => 1 / BREAKS, 0);

  // ---- What is drawn -------------------------------------------------------------------------------

  function element(parent, tag, attributes = {}, text = "") {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.textContent = text;
    parent.append(made);
    return made;
  }

  function slider(parent, label, from, to, by, value, changed) {
    const row = element(parent, "label", { class: "explorer-row" });
    element(row, "span", {}, label);
    const input = element(row, "input", { type: "range", min: from, max: to, step: by, value });
    const shown = element(row, "output");
    input.addEventListener("input", changed);
    return { input, shown, get value() { return Number(input.value); } };
  }

  const digits = (x, count = 3) => x !== 0 && Math.abs(x) < 1e-3 ? x.toExponential(1)
    : x.toFixed(count);

  function canvas(parent, width, height, about) {
    const made = element(parent, "canvas", { role: "img", "aria-label": about });
    const sharp = window.devicePixelRatio || 1;
    made.width = width * sharp;
    made.height = height * sharp;
    made.style.width = `${width}px`;
    made.style.height = `${height}px`;
    const pen = made.getContext("2d");
    pen.scale(sharp, sharp);
    return pen;
  }

  function freeMaps(root) {
    const maps = { truth: new Array(POSITIONS).fill(0), other: new Array(POSITIONS).fill(0) };
    const CELL = 24;
    let running = 0;

    const controls = element(root, "div");
    const k = slider(controls, "k", 1, POSITIONS, 1, 4, draw);
    const power = slider(controls, "λ", -2, 2, 0.05, 0, draw);
    const row = element(controls, "label", { class: "explorer-row" });
    element(row, "span", {}, "reading of ‖X‖₁");
    const reading = element(row, "select");
    for (const name of Object.keys(READINGS)) element(reading, "option", { value: name }, name);
    reading.addEventListener("change", draw);
    const buttons = element(controls, "div", { class: "explorer-row" });
    const button = (name, clicked) => element(buttons, "button", { type: "button" }, name)
      .addEventListener("click", clicked);
    button("let it settle", settle);
    button("noise", () => fill(() => 1.5 * (Math.random() + Math.random() - 1)));
    button("clear", () => fill(() => 0));

    const boards = element(root, "div", { class: "explorer-maps" });
    const pens = {};
    for (const [name, title] of [["truth", "the true class"], ["other", "each other class"]]) {
      const board = element(boards, "figure");
      element(board, "figcaption", {}, title);
      const size = SIDE * CELL;
      pens[name] = canvas(board, size, size, `class map of ${title}`);
      drag(pens[name].canvas, maps[name]);
    }
    const gauge = canvas(element(boards, "figure"), 70, SIDE * CELL + 24, "score and equilibrium");
    const words = element(root, "p", { class: "explorer-words", "aria-live": "polite" });

    function settings() { return [k.value, 10 ** power.value, reading.value]; }

    function fill(value) {
      running = 0;
      for (const map of Object.values(maps)) map.forEach((_, i) => { map[i] = value(); });
      draw();
    }

    /** A position follows the pointer: up is more. */
    function drag(board, map) {
      let held = null;
      board.style.touchAction = "none";
      board.addEventListener("pointerdown", (event) => {
        const box = board.getBoundingClientRect(), along = (at, size) =>
          Math.min(SIDE - 1, Math.floor(at / size * SIDE));
        const i = along(event.clientY - box.top, box.height) * SIDE
          + along(event.clientX - box.left, box.width);
        held = { i, y: event.clientY, value: map[i] };
        board.setPointerCapture(event.pointerId);
        running = 0;
      });
      board.addEventListener("pointermove", (event) => {
        if (held) { map[held.i] = held.value + (held.y - event.clientY) / 12; draw(); }
      });
      board.addEventListener("pointerup", () => { held = null; });
    }

    function settle() {
      running = 600;
      requestAnimationFrame(function frame() {
        if (running-- <= 0) return;
        for (let i = 0; i < 20; i++) step(maps.truth, maps.other, ...settings());
        draw();
        requestAnimationFrame(frame);
      });
    }

    function draw() {
      const now = state(maps.truth, maps.other, ...settings());
      const best = optimum(...settings());
      k.shown.value = `${k.value} of ${POSITIONS}`;
      power.shown.value = digits(10 ** power.value, 2);
      const top = Math.max(1, 1.3 * best.value, ...maps.truth, ...maps.other);
      for (const [name, pen] of Object.entries(pens)) {
        const chosen = new Set(winners(maps[name], k.value));
        maps[name].forEach((value, i) => {
          const [x, y] = [i % SIDE * CELL, Math.floor(i / SIDE) * CELL];
          const share = Math.max(-1, Math.min(1, value / top));
          pen.fillStyle = share >= 0 ? `hsl(24 90% ${96 - 46 * share}%)`
            : `hsl(210 70% ${96 + 46 * share}%)`;
          pen.fillRect(x, y, CELL, CELL);
          pen.strokeStyle = chosen.has(i) ? "#111" : "#ccc";
          pen.lineWidth = chosen.has(i) ? 2 : 0.5;
          pen.strokeRect(x + 1, y + 1, CELL - 2, CELL - 2);
        });
      }
      const height = SIDE * CELL + 24, at = (value) => height - 12 - value / top * (height - 24);
      gauge.clearRect(0, 0, 70, height);
      gauge.fillStyle = "#D55E00";
      gauge.fillRect(6, at(Math.max(now.yes, 0)), 20, Math.max(now.yes, 0) / top * (height - 24));
      gauge.strokeStyle = gauge.fillStyle = "#777";
      gauge.strokeRect(6, 12, 20, height - 24);
      gauge.fillRect(2, at(best.value) - 1, 28, 3);
      gauge.font = "11px sans-serif";
      gauge.fillText("rests", 34, at(best.value) - 3);
      gauge.fillText("here", 34, at(best.value) + 9);
      const lift = (1 - now.p) / k.value;
      words.textContent =
        `Score ${digits(now.yes)}, p of the true class ${digits(now.p, 4)}. Cross-entropy lifts `
        + `each of its ${k.value} outlined positions by (1 − p)/k = ${digits(lift, 4)}; the l1 term `
        + `pulls every position that is not 0 towards 0 by ${digits(now.price, 4)}: the outlined `
        + `ones ${lift > now.price ? "rise" : "fall"}. Loss ${digits(now.loss)} = cross-entropy `
        + `${digits(now.crossEntropy)} + l1 ${digits(now.l1)}; at the equilibrium 1 − p is `
        + `${digits(best.residual)}, the score ${digits(best.value)} and the loss `
        + `${digits(best.loss)}.`;
    }
    draw();
    return { maps, settings };
  }

  function saturation(root) {
    const scale = slider(element(root, "div"), "scale of the logits", 0, 3, 0.02, 0.6, draw);
    const WIDTH = 340, HEIGHT = 200, LEFT = 14, BOTTOM = 28;
    const pen = canvas(root, WIDTH, HEIGHT, "cross-entropy and margin along an attack");
    const words = element(root, "p", { class: "explorer-words", "aria-live": "polite" });

    function draw() {
      const factor = 10 ** scale.value;
      scale.shown.value = digits(factor, 1);
      const x = (t) => LEFT + t * (WIDTH - 2 * LEFT);
      const y = (share) => HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 16);
      const grid = [...Array(201).keys()].map((i) => i / 200);
      const entropy = (t) => singlePrecision(factor * margin(t)).loss;
      const rise = (t) => (margin(0) - margin(t)) / (margin(0) - margin(1));
      const most = entropy(1);
      const curves = [["#0072B2", (t) => entropy(t) / most, alongEntropy(factor)],
        ["#009E73", rise, alongMargin()]];
      pen.clearRect(0, 0, WIDTH, HEIGHT);
      pen.fillStyle = "rgba(213, 94, 0, 0.12)";
      pen.fillRect(x(BREAKS), 8, x(1) - x(BREAKS), y(0) - 8);
      pen.font = "11px sans-serif";
      pen.fillStyle = "#777";
      pen.fillText("share of the attack's budget", x(0.3), HEIGHT - 6);
      pen.fillText("wrong class", x(BREAKS) + 6, 20);
      for (const [colour, curve, path] of curves) {
        pen.strokeStyle = pen.fillStyle = colour;
        pen.lineWidth = 2;
        pen.beginPath();
        grid.forEach((t, i) => pen[i ? "lineTo" : "moveTo"](x(t), y(curve(t))));
        pen.stroke();
        pen.beginPath();
        pen.arc(x(path.at(-1)), y(curve(path.at(-1))), 5, 0, 2 * Math.PI);
        pen.fill();
      }
      pen.fillStyle = "#0072B2";
      pen.fillText("● cross-entropy, and where its attack ends", x(0), y(0) - 40);
      pen.fillStyle = "#009E73";
      pen.fillText("● margin, and where its attack ends", x(0), y(0) - 54);
      const here = singlePrecision(factor), end = alongEntropy(factor).at(-1);
      words.textContent =
        `At the image itself the logits differ by ${digits(factor, 1)}. In single precision its `
        + `cross-entropy is ${digits(here.loss)} and the slope of it ${digits(here.slope)}. The `
        + `attack on cross-entropy ${end > BREAKS ? "breaks" : "does not break"} the image, that on `
        + "the margin does. The network's answer is the same for each image and each scale: only "
        + "how sure it says it is has changed.";
    }
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const [name, build] of Object.entries({ freeMaps, saturation })) {
      for (const root of document.querySelectorAll(`[data-explorer="${name}"]`)) build(root);
    }
  });
  return { optimum, state, step, winners, singlePrecision, alongEntropy, alongMargin, BREAKS };
})();
