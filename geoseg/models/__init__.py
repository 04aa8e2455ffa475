"""Networks and how they are stored and run. Never imports rasterio."""
