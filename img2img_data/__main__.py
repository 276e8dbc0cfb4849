"""``python -m img2img_data``."""

from img2img_data.cli.main import main

if __name__ == "__main__":
    main()
