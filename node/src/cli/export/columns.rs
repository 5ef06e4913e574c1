//! Rows as an Apache Parquet file.

use std::io::Write;
use std::sync::Arc;

use parquet::basic::Compression;
use parquet::column::writer::ColumnWriter;
use parquet::data_type::ByteArray;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::rows::{Row, Sink, unwritten};
use crate::cli::failure::Failure;
use crate::cli::source::Unreadable;

/// Rows that are held until they are written together: some 50 MB of large ones.
const GROUP: usize = 16_384;

const SCHEMA: &str = "
message record {
  required int64 height (INTEGER(64,false));
  required int64 time (TIMESTAMP(MILLIS,true));
  required int32 index (INTEGER(32,false));
  required binary record (STRING);
  required binary author (STRING);
  required binary kind (STRING);
  optional binary offer (STRING);
  optional binary container (STRING);
  required binary message (JSON);
}";

/// A file in the making.
pub struct Columns<W: Write + Send> {
    writer: SerializedFileWriter<W>,
    rows: Vec<Row>,
}

impl<W: Write + Send> Columns<W> {
    pub fn new(target: W) -> Result<Self, Failure> {
        let begun = parse_message_type(SCHEMA).and_then(|schema| {
            let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
            SerializedFileWriter::new(target, Arc::new(schema), Arc::new(properties))
        });
        let writer = begun.map_err(|error| unwritten(error.into()))?;
        Ok(Self { writer, rows: Vec::with_capacity(GROUP) })
    }

    fn write_group(&mut self) -> Result<(), Unreadable> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.rows);
        let mut group = self.writer.next_row_group()?;
        let text = |text: String| ByteArray::from(text.into_bytes());
        // Heights, times and places are far below where the signs differ.
        let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        longs(&mut group, &rows, |row| number(row.height))?;
        longs(&mut group, &rows, |row| number(row.time.0))?;
        let places: Vec<i32> = rows.iter().map(|row| i32::try_from(row.index).unwrap_or(i32::MAX)).collect();
        column(&mut group, |column| match column {
            ColumnWriter::Int32ColumnWriter(column) => column.write_batch(&places, None, None).map(drop),
            _ => Err(ParquetError::General("the schema has another column here".to_owned())),
        })?;
        texts(&mut group, rows.iter().map(|row| Some(text(row.record.to_string()))), false)?;
        texts(&mut group, rows.iter().map(|row| Some(text(row.author.to_string()))), false)?;
        texts(&mut group, rows.iter().map(|row| Some(text(row.kind.to_owned()))), false)?;
        texts(&mut group, rows.iter().map(|row| row.offer.map(|id| text(id.to_string()))), true)?;
        texts(&mut group, rows.iter().map(|row| row.container.map(|id| text(id.to_string()))), true)?;
        let messages = rows.iter().map(Row::json).collect::<Result<Vec<_>, _>>()?;
        texts(&mut group, messages.into_iter().map(|json| Some(text(json))), false)?;
        group.close()?;
        Ok(())
    }
}

/// Writes the next column of a group.
fn column<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    write: impl FnOnce(&mut ColumnWriter<'_>) -> Result<(), ParquetError>,
) -> Result<(), ParquetError> {
    let column = group.next_column()?;
    let mut column = column.ok_or_else(|| ParquetError::General("the schema has no further column".to_owned()))?;
    write(column.untyped())?;
    column.close()
}

fn longs<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    rows: &[Row],
    value: impl Fn(&Row) -> i64,
) -> Result<(), ParquetError> {
    let values: Vec<i64> = rows.iter().map(value).collect();
    column(group, |column| match column {
        ColumnWriter::Int64ColumnWriter(column) => column.write_batch(&values, None, None).map(drop),
        _ => Err(ParquetError::General("the schema has another column here".to_owned())),
    })
}

fn texts<W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: impl Iterator<Item = Option<ByteArray>>,
    optional: bool,
) -> Result<(), ParquetError> {
    let values: Vec<Option<ByteArray>> = values.collect();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present: Vec<ByteArray> = values.into_iter().flatten().collect();
    column(group, |column| match column {
        ColumnWriter::ByteArrayColumnWriter(column) => {
            column.write_batch(&present, optional.then_some(&levels[..]), None).map(drop)
        }
        _ => Err(ParquetError::General("the schema has another column here".to_owned())),
    })
}

impl<W: Write + Send> Sink for Columns<W> {
    fn row(&mut self, row: Row) -> Result<(), Unreadable> {
        self.rows.push(row);
        if self.rows.len() == GROUP { self.write_group() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> Result<(), Unreadable> {
        self.write_group()?;
        self.writer.close()?;
        Ok(())
    }
}
