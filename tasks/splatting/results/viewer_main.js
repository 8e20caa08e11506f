// The page: reads its data, draws when something has changed, and answers to whoever scripts it (`trainyardViewer`).

const $ = (id) => document.getElementById(id);
const say = (text) => { $("message").textContent = text; };

// Base64 in parts: one call for all of it would hold several copies of a large splat at once.
function decoded(text) {
  const part = 1 << 20, bytes = new Uint8Array(Math.floor(text.length / 4) * 3 - (text.endsWith("==") ? 2 : text.endsWith("=") ? 1 : 0));
  for (let from = 0, to = 0; from < text.length; from += part) {
    const letters = atob(text.slice(from, from + part));
    for (let i = 0; i < letters.length; i++) bytes[to++] = letters.charCodeAt(i);
  }
  return bytes;
}

class Viewer {
  constructor() {
    this.meta = JSON.parse($("meta").textContent);
    const bytes = decoded($("data").textContent.trim()), n = this.meta.count;
    $("data").remove();
    const words = new Uint32Array(bytes.buffer, 0, 8 * n);
    const harmonics = new Uint32Array(bytes.buffer, 32 * n);
    const floats = new Float32Array(bytes.buffer, 0, 8 * n);
    const points = new Float32Array(3 * n);
    for (let i = 0; i < n; i++) points.set(floats.subarray(8 * i, 8 * i + 3), 3 * i);
    this.canvas = $("picture");
    this.painter = new Painter(this.canvas, this.meta, words, harmonics);
    if (!this.painter.gl) throw new Error("This page needs WebGL2, which this browser does not have or has switched off.");
    this.sorter = new Sorter(points, this.meta.near, (order, found, axis) => this.sorted(order, found, axis));
    this.hands = new Hands(this.canvas, this.meta.up, (change) => this.go(change(this.pose)));
    this.fixed = null;  // [width, height] in pixels, where a script has asked for them
    this.coarse = 1;
    this.frames = [];
    this.shown = [];
    this.controls();
    this.select(0);
    this.resize();
    requestAnimationFrame((time) => this.frame(time));
  }

  controls() {
    const last = this.meta.cameras.length - 1;
    $("views").max = last;
    $("views").oninput = () => this.select(Number($("views").value));
    $("reset").onclick = () => this.select(0);
    $("before").onclick = () => this.select(Math.max(0, this.index - 1));
    $("after").onclick = () => this.select(Math.min(last, this.index + 1));
    $("keys").onclick = () => { $("help").hidden = !$("help").hidden; };
    addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const does = { "[": "before", "]": "after", Home: "reset", 0: "reset", h: "keys", H: "keys" }[event.key];
      if (does) $(does).click();
    });
    this.canvas.ondblclick = () => {
      const full = document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
      full.catch(() => {});  // a frame may not be allowed to
    };
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.lost = true;
      say("The graphics driver has dropped this page; waiting for it.");
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.lost = false;
      say("");
      this.painter.prepare();
      this.go(this.pose);
    });
  }

  // Goes to a camera of the training.
  select(index) {
    this.index = index;
    this.camera = this.meta.cameras[index];
    $("views").value = index;
    $("view").textContent = `${index + 1} / ${this.meta.cameras.length} ${this.camera.name}`;
    $("view").title = this.camera.name;
    this.home = poseOf(this.camera, this.meta.target);
    this.go(this.home);
  }

  go(pose) {
    this.pose = pose;
    this.movedAt = performance.now();
    this.asked = (this.asked || 0) + 1;
    this.axis = [...row(pose, 2), -dot(row(pose, 2), pose.eye), this.asked];
    this.sorter.ask(this.axis);
    this.dirty = true;
  }

  sorted(order, found, axis) {
    if (this.lost) return;
    this.painter.setOrder(order, found);
    this.answered = axis[4];
    this.dirty = true;
  }

  resize() {
    this.room = [innerWidth, innerHeight, devicePixelRatio];
    const ratio = Math.min(devicePixelRatio || 1, 2) * this.coarse;
    const [width, height] = this.fixed || [innerWidth * ratio, innerHeight * ratio];
    this.canvas.width = Math.max(1, Math.round(width));
    this.canvas.height = Math.max(1, Math.round(height));
    this.dirty = true;
  }

  draw() {
    const lens = lensOf(this.camera, this.canvas.width, this.canvas.height);
    this.hands.pixels = lens[0] * innerWidth / this.canvas.width;
    this.painter.draw(this.pose, lens);
    this.dirty = false;
  }

  frame(time) {
    requestAnimationFrame((next) => this.frame(next));
    const seconds = Math.min(.1, (time - (this.before || time)) / 1000);
    this.before = time;
    // Looked at and not listened for: a frame that had no size at first is not always told of the one it gets.
    if ([innerWidth, innerHeight, devicePixelRatio].some((value, i) => value !== this.room[i])) this.resize();
    this.hands.fly(seconds, this.meta.speed);
    this.adapt(time);
    if (!this.dirty || this.lost || !this.answered) return;
    this.draw();
    if (this.moves(time)) this.frames.push(time);
    if (this.answered === this.asked) for (const told of this.shown.splice(0)) told();
  }

  moves(time) {
    return time - this.movedAt < 400;
  }

  // Says what is shown and how fast; fewer pixels while a slow machine moves, all of them once it rests.
  adapt(time) {
    const frames = this.frames = this.frames.filter((at) => time - at < 5000).slice(-8), n = frames.length;
    const moving = this.moves(time);
    if (!moving) frames.length = 0;
    else if (n > 2) this.fps = 1000 * (n - 1) / (frames[n - 1] - frames[0]);
    const coarse = !moving ? 1 : n > 2 && this.fps < 20 ? .5 : this.coarse;
    if (coarse !== this.coarse && !this.fixed) {
      this.coarse = coarse;
      this.resize();
    }
    const count = this.meta.count.toLocaleString("en"), all = this.meta.total > this.meta.count ? ` of ${this.meta.total.toLocaleString("en")}` : "";
    const rate = this.fps ? `, ${this.fps.toFixed(this.fps < 10 ? 1 : 0)} frames/s` : "";
    const text = `${count}${all} Gaussians, degree ${this.meta.degree}${rate}`;
    if ($("numbers").textContent !== text) $("numbers").textContent = text;
  }

  // Resolves with a PNG of camera `index` as data URL, at its own size or at another.
  async capture(index, width, height) {
    this.select(index);
    this.fixed = [width || this.camera.width, height || this.camera.height];
    this.resize();
    await new Promise((told) => this.shown.push(told));
    this.draw();  // a canvas may be read in the task that drew it, no later
    const picture = this.canvas.toDataURL("image/png");
    this.fixed = null;
    this.resize();
    return picture;
  }
}

try {
  window.trainyardViewer = new Viewer();
} catch (problem) {
  say(problem.message);
  $("bar").hidden = true;
}
