// The clips of a reference play in step: one clock in [0, 1) for all, which each clip, chart and map follows.
"use strict";

const DRIFT = 0.08; // seconds that a playing clip may be off before it is put right
const calm = matchMedia("(prefers-reduced-motion: reduce)");

class Player {
  constructor(section) {
    this.seconds = Number(section.dataset.seconds);
    this.cards = [...section.querySelectorAll(".card")].map((card) => new Card(card, this));
    this.button = section.querySelector(".play");
    this.scrubber = section.querySelector(".scrubber");
    this.place = section.querySelector(".place");
    this.toggle = section.querySelector(".show-maps");
    this.time = 0;
    this.playing = false;
    this.visible = false;
    this.last = null; // when the clock was last read, null while it stands

    section.querySelector(".controls").hidden = false;
    this.button.addEventListener("click", () => this.play(!this.playing));
    this.scrubber.addEventListener("input", () => this.seek(Number(this.scrubber.value)));
    this.toggle?.addEventListener("change", () => this.show());
    this.show();
    // Clips load when they are near the screen and run only while they are on it.
    new IntersectionObserver(([entry]) => this.appear(entry.isIntersecting)).observe(section);
    this.play(!calm.matches);
  }

  appear(visible) {
    this.visible = visible;
    if (visible) for (const card of this.cards) card.load();
    this.run();
  }

  play(playing) {
    this.playing = playing;
    this.button.textContent = playing ? "Pause" : "Play";
    this.run();
  }

  run() {
    const running = this.playing && this.visible;
    for (const card of this.cards) card.run(running);
    if (!running) this.last = null;
    else if (this.last === null) {
      this.last = performance.now();
      requestAnimationFrame((now) => this.tick(now));
    }
  }

  tick(now) {
    if (this.last === null) return;
    const time = this.time + Math.max(0, now - this.last) / 1000 / this.seconds;
    this.last = now;
    this.time = time % 1;
    this.show();
    requestAnimationFrame((later) => this.tick(later));
  }

  seek(time) {
    this.time = Math.min(Math.max(time, 0), 1);
    this.play(false);
    this.show();
  }

  show() {
    const text = `${Math.round(100 * this.time)} %`;
    this.scrubber.value = this.time;
    this.scrubber.setAttribute("aria-valuetext", text);
    this.place.textContent = text;
    for (const card of this.cards) card.show(this.time, Boolean(this.toggle?.checked));
  }
}

class Card {
  constructor(card, player) {
    this.scores = JSON.parse(card.dataset.scores);
    this.worst = this.index(Number(card.dataset.worst));
    this.screen = card.querySelector(".screen");
    this.video = card.querySelector("video");
    this.canvas = card.querySelector("canvas");
    this.maps = card.querySelector("canvas img");
    this.playhead = card.querySelector(".playhead");
    this.now = card.querySelector(".now");
    this.running = false;
    this.drawn = null;

    this.video.controls = false;
    this.video.muted = true;
    this.video.addEventListener("loadedmetadata", () => player.show());
    this.video.addEventListener("error", () => (card.querySelector(".unplayable").hidden = false));
    this.maps?.addEventListener("load", () => this.draw());
    const chart = card.querySelector(".chart svg");
    const follow = (event) => {
      const box = chart.getBoundingClientRect();
      player.seek((event.clientX - box.left) / box.width);
    };
    chart.addEventListener("pointerdown", (event) => {
      chart.setPointerCapture(event.pointerId);
      follow(event);
    });
    chart.addEventListener("pointermove", (event) => event.buttons && follow(event));
    for (const each of card.querySelectorAll(".strip li")) {
      each.addEventListener("click", () => player.seek(Number(each.dataset.place)));
    }
    const worst = card.querySelector(".to-worst");
    worst.disabled = false;
    worst.addEventListener("click", () => player.seek(Number(card.dataset.worst)));
  }

  index(time) {
    return Math.min(Math.floor(time * this.scores.length), this.scores.length - 1);
  }

  load() {
    this.video.preload = "auto";
  }

  run(running) {
    this.running = running;
    // A browser that will not play is led from frame to frame by the clock all the same.
    if (running) this.video.play().catch(() => {});
    else this.video.pause();
  }

  show(time, mapped) {
    const index = this.index(time);
    this.follow(time, index);
    this.playhead.setAttribute("d", `M${time} 0V1`);
    if (this.canvas) {
      this.canvas.hidden = !mapped;
      this.screen.classList.toggle("mapped", mapped);
    }
    if (index === this.drawn) return;
    this.drawn = index;
    this.now.textContent = `this frame ${this.scores[index].toFixed(3)}`;
    this.screen.classList.toggle("at-worst", index === this.worst);
    if (this.canvas) this.draw();
  }

  follow(time, index) {
    const length = this.video.duration;
    if (!(length > 0)) return; // not loaded yet
    if (!this.running) {
      const middle = (index + 0.5) / this.scores.length; // of the time that the frame is on the screen
      if (Math.abs(this.video.currentTime - middle * length) > 0.001) this.video.currentTime = middle * length;
      return;
    }
    const away = Math.abs(this.video.currentTime - time * length);
    if (Math.min(away, length - away) > DRIFT && !this.video.seeking) this.video.currentTime = time * length;
  }

  draw() {
    if (this.drawn === null || !this.maps.complete) return;
    const { width, height } = this.canvas.dataset;
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(this.maps, this.drawn * width, 0, width, height, 0, 0, this.canvas.width, this.canvas.height);
  }
}

function sortable(table) {
  const heads = [...table.querySelectorAll("thead tr:last-child th")];
  const body = table.tBodies[0];
  heads.forEach((head, column) => {
    const first = head.firstElementChild.dataset.first;
    head.firstElementChild.addEventListener("click", () => {
      const other = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      for (const each of heads) each.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      body.append(...[...body.rows].sort((a, b) => compare(a, b, column, order === "ascending" ? 1 : -1)));
    });
  });
}

function compare(one, two, column, sign) {
  const [a, b] = [one, two].map((row) => row.cells[column].dataset.value);
  if (a === "" || b === "") return (a === "") - (b === ""); // what was not scored stays last
  return sign * (isNaN(a) || isNaN(b) ? a.localeCompare(b, undefined, { numeric: true }) : a - b);
}

for (const section of document.querySelectorAll(".ranking")) if (section.querySelector(".controls")) new Player(section);
for (const table of document.querySelectorAll("table")) sortable(table);
