# make demo     train, evaluate and attack on the ORL faces: results under runs/demo/
# make light FACES=faces.tar SERVER=recogniser.pth
#               train and evaluate a light client on real faces: the table of README, under runs/light/
# make reproduce FACES=faces.tar SERVER=recogniser.pth
#               the same for a client that is the recogniser's own network: under runs/reproduce/
# make frontier FACES=faces.tar SERVER=recogniser.pth
#               train and measure light clients and what they compete with, hours: runs/frontier/frontier.png
# make test     the test suite, without what takes minutes
# make slow     the rest of it
# make bench    speed beside a plain baseline, as ratios: benchmarks/out/bench.json
# make check    ruff, mypy, the order of the packages, all tests: what CI runs
# make clean    remove the environment and the demo's data and results
#
# Each command first creates .venv and installs what it needs. PYTHON=python3.12 picks another Python.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo light reproduce frontier test slow lint check bench clean

demo: .venv/installed
	$(BIN)/python -m torchkit.data.prepare demo --out Data/demo --model-root model
	$(BIN)/python train.py --config configs/demo.yaml --resume
	$(BIN)/python validation/val_main.py --backbone-resume runs/demo/client.pth \
		--data-root Data/demo/validation --datasets orl --out runs/demo/validation
	$(BIN)/python validation/attack_main.py --client runs/demo/client.pth --faces Data/demo --attacks inversion \
		--budget demo --seeds 1 --judge none --out runs/demo/attack

# FACES: aligned faces, train/ and val/ with train.txt ("path label") and val_pairs.txt ("path path same") as a tar file.
# SERVER: a MobileFaceNet recogniser, TFace's state dict. A run that was stopped goes on.
light: OUT := runs/light
light: CONFIG := configs/light.yaml
light: MEASURE = --obfuscations hybrid --fit-on $(OUT)/faces/train --conditions clear obfuscated compensated client_alone \
	embedding_1_bit embedding_2_bit
reproduce: OUT := runs/reproduce
reproduce: CONFIG := configs/faces.yaml
reproduce: START = CLIENT.INIT="$(SERVER)"
light reproduce: .venv/installed
	@test -f "$(FACES)" || { echo "FACES = '$(FACES)' is no file; make $@ FACES=faces.tar SERVER=recogniser.pth"; exit 2; }
	@test -f "$(SERVER)" || { echo "SERVER = '$(SERVER)' is no file; make $@ FACES=faces.tar SERVER=recogniser.pth"; exit 2; }
	mkdir -p $(OUT)/faces
	tar --extract --file "$(FACES)" --directory $(OUT)/faces
	$(BIN)/python train.py --config $(CONFIG) --resume DATA_ROOT=$(OUT)/faces INDEX_ROOT=$(OUT)/faces \
		SERVER.CHECKPOINT="$(SERVER)" MODEL_ROOT=$(OUT) LOGS=$(OUT) LOG_ROOT=$(OUT)/tensorboard $(START)
	$(BIN)/python -m torchkit.data.prepare pairs --root $(OUT)/faces --pairs $(OUT)/faces/val_pairs.txt \
		--out $(OUT)/sets --name faces
	$(BIN)/python validation/val_main.py --backbone-resume $(OUT)/client.pth --data-root $(OUT)/sets --datasets faces \
		--out $(OUT)/validation $(MEASURE)

FRONTIER := runs/frontier
JUDGE := model/dlib_face_recognition_resnet_model_v1.dat
frontier: .venv/installed
	@test -f "$(FACES)" || { echo "FACES = '$(FACES)' is no file; make frontier FACES=faces.tar SERVER=recogniser.pth"; exit 2; }
	@test -f "$(SERVER)" || { echo "SERVER = '$(SERVER)' is no file; make frontier FACES=faces.tar SERVER=recogniser.pth"; exit 2; }
	mkdir -p $(FRONTIER)/faces
	tar --extract --file "$(FACES)" --directory $(FRONTIER)/faces
	test -f $(JUDGE) || $(BIN)/python -m torchkit.data.prepare demo --out Data/demo --model-root model
	$(BIN)/python -m torchkit.data.prepare pairs --root $(FRONTIER)/faces --pairs $(FRONTIER)/faces/val_pairs.txt \
		--out $(FRONTIER)/sets --name faces
	$(BIN)/python validation/frontier_main.py --faces $(FRONTIER)/faces --sets $(FRONTIER)/sets \
		--server-checkpoint "$(SERVER)" --judge-checkpoint $(JUDGE) --out $(FRONTIER)

test: .venv/installed-dev
	$(BIN)/python -m pytest

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow -n 0

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test slow

bench: .venv/installed-dev
	$(BIN)/python benchmarks/bench.py

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --requirement requirements.txt
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt
	$(BIN)/python -m pip install --requirement requirements-dev.txt
	touch $@

clean:
	rm -rf .venv Data/demo runs/demo
