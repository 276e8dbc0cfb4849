"""``python -m img2img_train``."""

from img2img_train.cli.main import main

if __name__ == "__main__":
    main()
